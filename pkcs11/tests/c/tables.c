/* Every table has every function of its version, and every function can be called at any time with anything that is null. */

#include "check.h"

/* Of version 3.0, which the header is not. */
struct version {
    unsigned char major, minor;
};
struct interface {
    const char *pInterfaceName;
    void *pFunctionList;
    unsigned long flags;
};

/* A function of any arguments; the calling conventions of Linux let a caller pass more than there are. */
typedef unsigned long (*any)(unsigned long, unsigned long, unsigned long, unsigned long, unsigned long, unsigned long,
                             unsigned long, unsigned long, unsigned long, unsigned long);

static unsigned long call(any function, unsigned long first) {
    return function(first, 0, 0, 0, 0, 0, 0, 0, 0, 0);
}

/* The functions of a table follow its version. */
static any *of_table(void *table) {
    return (any *)((char *)table + sizeof(void *));
}

#define ALREADY_INITIALIZED 0x191
#define INITIALIZE 0
#define FINALIZE 1
#define GET_INFO 2
#define GET_FUNCTION_LIST 3
#define GET_INTERFACE_LIST 68
#define GET_INTERFACE 69

static void check_table(void *table, int major, int minor, int count) {
    struct version *version = table;
    CHECK(version->major == major && version->minor == minor);
    for (int i = 0; i < count; i++) {
        CHECK(of_table(table)[i] != NULL);
    }
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    void *module = open_module(argv[1]);
    struct ck_function_list *functions = functions_of(module);
    check_table(functions, 2, 40, 68);

    ck_rv_t (*list)(struct interface *, unsigned long *) = (ck_rv_t(*)(struct interface *, unsigned long *))dlsym(module, "C_GetInterfaceList");
    struct interface interfaces[8];
    unsigned long count = 0;
    RV(list(NULL, &count), CKR_OK);
    CHECK(count == 4);
    count = 1;
    RV(list(interfaces, &count), CKR_BUFFER_TOO_SMALL);
    CHECK(count == 4);
    count = 8;
    RV(list(interfaces, &count), CKR_OK);
    CHECK(count == 4);
    check_table(interfaces[0].pFunctionList, 3, 2, 104);
    check_table(interfaces[1].pFunctionList, 3, 1, 92);
    check_table(interfaces[2].pFunctionList, 3, 0, 92);
    check_table(interfaces[3].pFunctionList, 2, 40, 68);

    ck_rv_t (*get)(unsigned char *, struct version *, struct interface **, unsigned long) =
        (ck_rv_t(*)(unsigned char *, struct version *, struct interface **, unsigned long))dlsym(module, "C_GetInterface");
    struct interface *found = NULL;
    RV(get(NULL, NULL, &found, 0), CKR_OK);
    check_table(found->pFunctionList, 3, 2, 104);
    struct version v3_0 = {3, 0}, v4_0 = {4, 0};
    RV(get((unsigned char *)"PKCS 11", &v3_0, &found, 0), CKR_OK);
    check_table(found->pFunctionList, 3, 0, 92);
    CHECK(get((unsigned char *)"PKCS 11", &v4_0, &found, 0) != CKR_OK);
    CHECK(get((unsigned char *)"Vendor", NULL, &found, 0) != CKR_OK);
    RV(get(NULL, NULL, NULL, 0), CKR_ARGUMENTS_BAD);

    /* Before initialisation every function says so, except for those that may be called. */
    any *all = of_table(interfaces[0].pFunctionList);
    for (int i = 0; i < 104; i++) {
        switch (i) {
        case INITIALIZE:
            break;
        case GET_FUNCTION_LIST:
        case GET_INTERFACE_LIST:
        case GET_INTERFACE:
            RV(call(all[i], 0), CKR_ARGUMENTS_BAD);
            break;
        default:
            RV(call(all[i], 0), CKR_CRYPTOKI_NOT_INITIALIZED);
        }
    }

    struct ck_c_initialize_args bad = {0};
    bad.reserved = &bad;
    RV(functions->C_Initialize(&bad), CKR_ARGUMENTS_BAD);
    bad.reserved = NULL;
    bad.create_mutex = (ck_createmutex_t)(void *)main;
    RV(functions->C_Initialize(&bad), CKR_ARGUMENTS_BAD);
    struct ck_c_initialize_args good = {0};
    good.flags = CKF_OS_LOCKING_OK | CKF_LIBRARY_CANT_CREATE_OS_THREADS;
    RV(functions->C_Initialize(&good), CKR_OK);
    RV(functions->C_Initialize(NULL), ALREADY_INITIALIZED);
    RV(functions->C_Finalize(&bad), CKR_ARGUMENTS_BAD);

    /* Nothing that is null is followed, and no function succeeds that has a session, which is never 0. */
    for (int i = FINALIZE + 1; i < 104; i++) {
        unsigned long rv = call(all[i], 0);
        /* Of slot 0, which is there: all of its sessions may be closed. */
        CHECK(rv != CKR_OK || all[i] == (any)functions->C_CloseAllSessions);
        CHECK(rv != CKR_GENERAL_ERROR);
    }
    RV(functions->C_WrapKey(0, NULL, 0, 0, NULL, NULL), CKR_FUNCTION_NOT_SUPPORTED);

    unsigned long slots = 0;
    RV(functions->C_GetSlotList(1, NULL, &slots), CKR_OK);
    CHECK(slots == 2);
    unsigned long ids[2], session;
    slots = 1;
    RV(functions->C_GetSlotList(1, ids, &slots), CKR_BUFFER_TOO_SMALL);
    slots = 2;
    RV(functions->C_GetSlotList(0, ids, &slots), CKR_OK);
    RV(functions->C_OpenSession(ids[0], 0, NULL, NULL, &session), CKR_SESSION_PARALLEL_NOT_SUPPORTED);
    RV(functions->C_OpenSession(99, CKF_SERIAL_SESSION, NULL, NULL, &session), CKR_SLOT_ID_INVALID);
    RV(functions->C_OpenSession(ids[0], CKF_SERIAL_SESSION, NULL, NULL, &session), CKR_OK);

    /* With a session, too, nothing that is null is followed. */
    for (int i = FINALIZE + 1; i < 104; i++) {
        /* These do not begin with a session. */
        if (i == GET_INFO || i == GET_FUNCTION_LIST || i == GET_INTERFACE_LIST || i == GET_INTERFACE) {
            continue;
        }
        if (all[i] == (any)functions->C_CloseSession || all[i] == (any)functions->C_CloseAllSessions) {
            continue;
        }
        CHECK(call(all[i], session) != CKR_GENERAL_ERROR);
    }

    /* Lengths that cannot be are refused before anything is read. */
    struct ck_attribute attribute = {CKA_LABEL, NULL, 5};
    RV(functions->C_FindObjectsInit(session, &attribute, 1), CKR_ATTRIBUTE_VALUE_INVALID);
    attribute.value = "x";
    attribute.value_len = (unsigned long)-1;
    RV(functions->C_FindObjectsInit(session, &attribute, 1), CKR_ATTRIBUTE_VALUE_INVALID);
    RV(functions->C_FindObjectsInit(session, &attribute, (unsigned long)-1), CKR_ARGUMENTS_BAD);
    RV(functions->C_FindObjectsInit(session, NULL, 1), CKR_ARGUMENTS_BAD);
    struct ck_mechanism mechanism = {CKM_SHA256, "x", (unsigned long)-1};
    RV(functions->C_DigestInit(session, &mechanism), CKR_MECHANISM_PARAM_INVALID);
    mechanism.parameter_len = 1;
    RV(functions->C_DigestInit(session, &mechanism), CKR_MECHANISM_PARAM_INVALID);
    mechanism.parameter_len = 0;
    unsigned char digest[32];
    unsigned long length = 5;
    RV(functions->C_Digest(session, (unsigned char *)"abc", 3, digest, &length), CKR_OPERATION_NOT_INITIALIZED);
    RV(functions->C_DigestInit(session, &mechanism), CKR_OK);
    RV(functions->C_DigestInit(session, &mechanism), CKR_OPERATION_ACTIVE);
    RV(functions->C_Digest(session, (unsigned char *)"abc", 3, NULL, &length), CKR_OK);
    CHECK(length == 32);
    length = 31;
    RV(functions->C_Digest(session, (unsigned char *)"abc", 3, digest, &length), CKR_BUFFER_TOO_SMALL);
    CHECK(length == 32);
    RV(functions->C_Digest(session, (unsigned char *)"abc", 3, digest, &length), CKR_OK);
    CHECK(digest[0] == 0xba && digest[1] == 0x78 && digest[31] == 0xad);
    RV(functions->C_Digest(session, (unsigned char *)"abc", 3, digest, &length), CKR_OPERATION_NOT_INITIALIZED);
    /* No mechanism ends an operation, and so do more data than the module takes. */
    RV(functions->C_DigestInit(session, &mechanism), CKR_OK);
    RV(functions->C_DigestInit(session, NULL), CKR_OK);
    RV(functions->C_DigestFinal(session, digest, &length), CKR_OPERATION_NOT_INITIALIZED);
    RV(functions->C_DigestInit(session, &mechanism), CKR_OK);
    RV(functions->C_DigestUpdate(session, digest, 1ul << 30), CKR_DATA_LEN_RANGE);
    RV(functions->C_DigestFinal(session, digest, &length), CKR_OPERATION_NOT_INITIALIZED);

    RV(functions->C_Finalize(NULL), CKR_OK);
    RV(functions->C_Finalize(NULL), CKR_CRYPTOKI_NOT_INITIALIZED);
    RV(functions->C_CloseSession(session), CKR_CRYPTOKI_NOT_INITIALIZED);
    CHECK(dlclose(module) == 0);
    return 0;
}
