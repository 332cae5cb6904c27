/* Calls functions in any order with any arguments of the right kinds, among them null, lengths that cannot be, and handles of
   nothing. Whatever is behind a pointer is as long as its length says. The module neither crashes nor panics.
   Arguments: the module, the number of calls, the seed. */

#include "check.h"

#include <stdint.h>

typedef unsigned long word;
typedef word (*any)(word, word, word, word, word, word, word, word, word, word);

static uint64_t state;

/* xorshift64*: the same calls for the same seed. */
static word chance(word below) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (word)((state * 0x2545F4914F6CDD1DULL) >> 33) % below;
}

#define COUNT(array) (sizeof(array) / sizeof *(array))

static word sessions[4], objects[6];
static unsigned char in[4096], out[70000];
/* For structures: their padding has no value, so it must not become the value of an attribute. */
static word info[64];
static word lengths[8];

static word any_of(const word *words, word count) {
    return words[chance(count)];
}

/* Arguments of one call, built one after the other. */
static word arguments[12];
static int used;

static void push(word value) {
    CHECK(used < 12);
    arguments[used++] = value;
}

static word impossible(void) {
    static const word lengths[] = {(word)-1, (word)1 << 62, (word)1 << 40, (word)-4096};
    return any_of(lengths, COUNT(lengths));
}

static void push_bytes(void) {
    switch (chance(8)) {
    case 0:
        push(0);
        push(chance(2) ? 0 : chance(100));
        break;
    case 1:
        push((word)in);
        push(impossible());
        break;
    default: {
        word at = chance(64);
        push((word)(in + at));
        push(chance(3) ? chance(80) : chance(sizeof in - 64));
    }
    }
}

static void push_out(void) {
    word *length = &lengths[chance(COUNT(lengths))];
    *length = chance(3) ? chance(600) : chance(sizeof out);
    push(chance(4) ? (word)out : 0);
    push(chance(16) ? (word)length : 0);
}

static const word kinds[] = {CKM_SHA_1, 0x250, 0x251, 0x252, 0x1082, 0x1085, 0x1, 0x3, 0x9, 0xd, 0x40, 0x43, 0x1041, 0x1044,
                             0x1057, 0x0, 0x1040, 0x1055, 0x1080, 0x350, (word)-1};

static struct ck_mechanism mechanism;

static void push_mechanism(void) {
    if (chance(20) == 0) {
        push(0);
        return;
    }
    if (chance(2)) {
        /* One that fits a secret. */
        static const word fitting[] = {0x250, 0x251, 0x1082, 0x1085, 0x1080, 0x350};
        mechanism.mechanism = any_of(fitting, COUNT(fitting));
        int with_iv = mechanism.mechanism == 0x1082 || mechanism.mechanism == 0x1085;
        mechanism.parameter = with_iv ? in : NULL;
        mechanism.parameter_len = with_iv ? 16 : 0;
        push((word)&mechanism);
        return;
    }
    mechanism.mechanism = any_of(kinds, COUNT(kinds));
    word sizes[] = {0, 0, 0, 16, 16, sizeof(word) * 3, sizeof(word) * 5, chance(80), impossible()};
    mechanism.parameter_len = any_of(sizes, COUNT(sizes));
    mechanism.parameter = chance(8) ? in + 8 * chance(4) : NULL;
    /* Of structures with pointers in them, these lead to nothing: null, with any length. */
    if (mechanism.mechanism == 0x9 && mechanism.parameter) {
        static word oaep[5];
        oaep[0] = any_of(kinds, COUNT(kinds));
        oaep[1] = chance(6);
        oaep[2] = chance(2);
        oaep[3] = 0;
        oaep[4] = chance(2) ? 0 : impossible();
        mechanism.parameter = oaep;
        mechanism.parameter_len = sizeof oaep;
    }
    push((word)&mechanism);
}

static const word attribute_kinds[] = {CKA_CLASS, CKA_TOKEN, CKA_PRIVATE, CKA_LABEL, CKA_VALUE, CKA_ID, CKA_KEY_TYPE, CKA_SIGN,
                                       CKA_VERIFY, CKA_ENCRYPT, CKA_DECRYPT, CKA_MODULUS, CKA_PUBLIC_EXPONENT, CKA_MODULUS_BITS,
                                       CKA_VALUE_LEN, CKA_EC_PARAMS, CKA_EC_POINT, CKA_SENSITIVE, CKA_EXTRACTABLE, 0x40000600,
                                       CKA_SUBJECT, CKA_CERTIFICATE_TYPE, (word)-1};
static const word attribute_values[] = {0, 1, 2, 3, 4, 16, 32, 0x10, 0x1f, 0x40, 0x103, (word)-1};
static struct ck_attribute attributes[16];
static word values[16];

/* A secret key or data, which can be had without an HSM, or anything. */
static void push_template(void) {
    word count = chance(COUNT(attributes));
    for (word i = 0; i < count; i++) {
        attributes[i].type = any_of(attribute_kinds, COUNT(attribute_kinds));
        values[i] = any_of(attribute_values, COUNT(attribute_values));
        word sizes[] = {sizeof(word), 1, chance(40)};
        attributes[i].value = &values[i];
        attributes[i].value_len = chance(2) ? sizeof(word) : 1;
        switch (chance(10)) {
        case 0:
            attributes[i].value = NULL;
            attributes[i].value_len = any_of(sizes, COUNT(sizes));
            break;
        case 1:
            attributes[i].value = in;
            attributes[i].value_len = impossible();
            break;
        case 2:
        case 3:
            attributes[i].value = out + 600 * i;
            attributes[i].value_len = chance(600);
            break;
        }
    }
    if (chance(2)) {
        static word class, type;
        static unsigned char no = 0, yes = 1;
        class = chance(3) ? CKO_SECRET_KEY : any_of(attribute_values, COUNT(attribute_values));
        type = chance(2) ? CKK_AES : CKK_GENERIC_SECRET;
        static const word key_lengths[] = {16, 24, 32, 32, 1, 7};
        struct ck_attribute secret[] = {{CKA_CLASS, &class, sizeof class},
                                        {CKA_KEY_TYPE, &type, sizeof type},
                                        {CKA_TOKEN, &no, 1},
                                        {CKA_VALUE, in, any_of(key_lengths, COUNT(key_lengths))},
                                        {CKA_SIGN, &yes, 1},
                                        {CKA_VERIFY, &yes, 1},
                                        {CKA_ENCRYPT, &yes, 1},
                                        {CKA_DECRYPT, &yes, 1}};
        memcpy(attributes, secret, sizeof secret);
        count = chance(4) ? COUNT(secret) : count;
    }
    push(chance(20) ? (word)attributes : 0);
    push(chance(50) ? count : impossible());
}

/* A secret to be generated, or anything. */
static void push_generated(void) {
    static word length = 16;
    static struct ck_attribute generated[] = {{CKA_VALUE_LEN, &length, sizeof length}};
    if (chance(2)) {
        push_template();
    } else {
        push((word)generated);
        push(1);
    }
}

/* Its name, and the kinds of its arguments: a session, slot, object, bytes, room for bytes, a mechanism, a template, a handle to
   write, flags, or an array of handles. */
static const struct {
    const char *name, *takes;
} functions[] = {
    {"C_GetSlotInfo", "l p"}, {"C_GetMechanismInfo", "l f p"}, {"C_GetMechanismList", "l A"}, {"C_GetSlotList", "f A"},
    {"C_OpenSession", "l f z z S"}, {"C_CloseSession", "s"}, {"C_GetSessionInfo", "s p"}, {"C_GetTokenInfo", "l p"},
    {"C_Login", "s f b"}, {"C_LoginUser", "s f b b"}, {"C_Logout", "s"}, {"C_SessionCancel", "s f"}, {"C_SetPIN", "s b b"},
    {"C_InitPIN", "s b"}, {"C_CreateObject", "s t H"}, {"C_CreateObject", "s t H"}, {"C_CreateObject", "s t H"},
    {"C_CopyObject", "s k t H"}, {"C_DestroyObject", "s k"}, {"C_GetObjectSize", "s k p"}, {"C_GetAttributeValue", "s k t"},
    {"C_SetAttributeValue", "s k t"}, {"C_FindObjectsInit", "s t"}, {"C_FindObjects", "s F"}, {"C_FindObjectsFinal", "s"},
    {"C_EncryptInit", "s m k"}, {"C_Encrypt", "s b o"}, {"C_EncryptUpdate", "s b o"}, {"C_EncryptFinal", "s o"},
    {"C_DecryptInit", "s m k"}, {"C_Decrypt", "s b o"}, {"C_DecryptUpdate", "s b o"}, {"C_DecryptFinal", "s o"},
    {"C_DigestInit", "s m"}, {"C_Digest", "s b o"}, {"C_DigestUpdate", "s b"}, {"C_DigestKey", "s k"}, {"C_DigestFinal", "s o"},
    {"C_SignInit", "s m k"}, {"C_Sign", "s b o"}, {"C_SignUpdate", "s b"}, {"C_SignFinal", "s o"}, {"C_VerifyInit", "s m k"},
    {"C_Verify", "s b b"}, {"C_VerifyUpdate", "s b"}, {"C_VerifyFinal", "s b"}, {"C_VerifySignatureInit", "s m k b"},
    {"C_VerifySignature", "s b"}, {"C_VerifySignatureUpdate", "s b"}, {"C_VerifySignatureFinal", "s"},
    
    /* Once more, as much has to be there for what follows them. */
    {"C_OpenSession", "l f z z S"}, {"C_CreateObject", "s t H"}, {"C_EncryptInit", "s m k"}, {"C_EncryptInit", "s m k"},
    {"C_DecryptInit", "s m k"}, {"C_DecryptInit", "s m k"}, {"C_SignInit", "s m k"}, {"C_SignInit", "s m k"},
    {"C_VerifyInit", "s m k"}, {"C_VerifyInit", "s m k"}, {"C_GenerateKey", "s m g H"}, {"C_SeedRandom", "s b"}, {"C_GenerateRandom", "s b"}, {"C_WrapKey", "s m k k o"},
};

static word call(any function, const char *takes, word **handle) {
    used = 0;
    *handle = NULL;
    for (const char *kind = takes; *kind; kind++) {
        switch (*kind) {
        case ' ': break;
        case 'z': push(0); break;
        case 'l': push(chance(3)); break;
        case 's': push(chance(20) ? any_of(sessions, COUNT(sessions)) : chance(1000)); break;
        case 'k': push(chance(20) ? any_of(objects, COUNT(objects)) : chance(1000)); break;
        case 'f': push(chance(4) ? chance(8) : any_of(kinds, COUNT(kinds))); break;
        case 'p': push(chance(16) ? (word)info : 0); break;
        case 'b': push_bytes(); break;
        case 'o': push_out(); break;
        case 'm': push_mechanism(); break;
        case 't': push_template(); break;
        case 'g': push_generated(); break;
        case 'A':
            lengths[0] = chance(sizeof out / sizeof(word));
            push(chance(2) ? (word)out : 0);
            push(chance(16) ? (word)&lengths[0] : 0);
            break;
        case 'F':
            push(chance(16) ? (word)out : 0);
            push(chance(sizeof out / sizeof(word)));
            push(chance(16) ? (word)&lengths[1] : 0);
            break;
        case 'H':
        case 'S':
            *handle = *kind == 'H' ? &objects[chance(COUNT(objects))] : &sessions[chance(COUNT(sessions))];
            push(chance(16) ? (word)*handle : 0);
            break;
        default: CHECK(!"a kind");
        }
    }
    word *a = arguments;
    while (used < 10) {
        push(0);
    }
    return function(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9]);
}

int main(int argc, char **argv) {
    CHECK(argc == 4);
    void *module = open_module(argv[1]);
    struct ck_function_list *list = functions_of(module);
    state = strtoull(argv[3], NULL, 10) * 0x9E3779B97F4A7C15ULL + 1;
    RV(list->C_Initialize(NULL), CKR_OK);
    for (word i = 0; i < COUNT(sessions); i++) {
        RV(list->C_OpenSession(0, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &sessions[i]), CKR_OK);
    }
    any addresses[COUNT(functions)];
    word succeeded[COUNT(functions)] = {0};
    for (word i = 0; i < COUNT(functions); i++) {
        addresses[i] = (any)dlsym(module, functions[i].name);
        CHECK(addresses[i] != NULL);
    }
    for (word i = strtoul(argv[2], NULL, 10); i > 0; i--) {
        word which = chance(COUNT(functions)), *handle;
        word rv = call(addresses[which], functions[which].takes, &handle);
        if (rv == CKR_GENERAL_ERROR) {
            fprintf(stderr, "seed %s, %lu calls left: %s panicked\n", argv[3], i, functions[which].name);
            _Exit(1);
        }
        succeeded[which] += rv == CKR_OK;
    }
    /* Calls that always fail would find nothing. */
    for (word i = 0; i < COUNT(functions); i++) {
        static const char *never[] = {"C_Login", "C_LoginUser", "C_Logout", "C_SetPIN", "C_InitPIN", "C_SeedRandom", "C_WrapKey",
                                      "C_GenerateRandom", "C_Verify", "C_VerifyFinal", "C_VerifySignature", "C_VerifySignatureFinal"};
        int expected = 1;
        for (word j = 0; j < COUNT(never); j++) {
            expected &= strcmp(functions[i].name, never[j]) != 0;
        }
        if (expected && succeeded[i] == 0) {
            fprintf(stderr, "%s never succeeded\n", functions[i].name);
            _Exit(1);
        }
    }
    RV(list->C_Finalize(NULL), CKR_OK);
    return 0;
}
