/* What processes do to a module: they fork at any time, use it in many threads, unload it, and end without a word.
   Arguments: the module, what to do, the PIN. The key is an Ed25519 key with the id "k". */

#define _GNU_SOURCE
#include "check.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

static struct ck_function_list *f;
static const char *pin;

static void initialize(void) {
    struct ck_c_initialize_args arguments = {0};
    arguments.flags = CKF_OS_LOCKING_OK;
    RV(f->C_Initialize(&arguments), CKR_OK);
}

static unsigned long open_session(void) {
    unsigned long session = 0;
    RV(f->C_OpenSession(0, CKF_SERIAL_SESSION, NULL, NULL, &session), CKR_OK);
    return session;
}

static void log_in(unsigned long session) {
    RV(f->C_Login(session, CKU_USER, (unsigned char *)pin, strlen(pin)), CKR_OK);
}

static unsigned long key_of(unsigned long session) {
    unsigned long class = CKO_PRIVATE_KEY, key = 0, count = 0;
    struct ck_attribute template[] = {{CKA_CLASS, &class, sizeof class}, {CKA_ID, "k", 1}};
    RV(f->C_FindObjectsInit(session, template, 2), CKR_OK);
    RV(f->C_FindObjects(session, &key, 1, &count), CKR_OK);
    RV(f->C_FindObjectsFinal(session), CKR_OK);
    CHECK(count == 1);
    return key;
}

static void sign(unsigned long session, unsigned long key) {
    struct ck_mechanism eddsa = {0x1057, NULL, 0};
    unsigned char signature[64];
    unsigned long length = sizeof signature;
    RV(f->C_SignInit(session, &eddsa, key), CKR_OK);
    RV(f->C_Sign(session, (unsigned char *)"message", 7, signature, &length), CKR_OK);
    CHECK(length == 64);
}

static void digest(unsigned long session) {
    struct ck_mechanism sha256 = {CKM_SHA256, NULL, 0};
    unsigned char digest[32];
    unsigned long length = sizeof digest;
    RV(f->C_DigestInit(session, &sha256), CKR_OK);
    RV(f->C_Digest(session, (unsigned char *)"abc", 3, digest, &length), CKR_OK);
    CHECK(length == 32 && digest[0] == 0xba && digest[31] == 0xad);
}

static void use(void) {
    unsigned long session = open_session();
    log_in(session);
    sign(session, key_of(session));
}

/* Runs in a child, which must end well. */
static void in_child(void (*work)(void)) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        /* A child that hangs fails. */
        alarm(60);
        work();
        exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    if (status != 0) {
        fprintf(stderr, "a child ended with status 0x%x\n", status);
        _Exit(1);
    }
}

static void child_initializes(void) {
    initialize();
    use();
    RV(f->C_Finalize(NULL), CKR_OK);
}

static void child_is_not_initialized(void) {
    unsigned long session;
    struct ck_info info;
    RV(f->C_GetInfo(&info), CKR_CRYPTOKI_NOT_INITIALIZED);
    RV(f->C_OpenSession(0, CKF_SERIAL_SESSION, NULL, NULL, &session), CKR_CRYPTOKI_NOT_INITIALIZED);
    child_initializes();
}

static void child_only_finalizes(void) {
    RV(f->C_Finalize(NULL), CKR_CRYPTOKI_NOT_INITIALIZED);
}

static void child_does_nothing(void) {}

static void grandchild(void) {
    in_child(child_is_not_initialized);
    child_is_not_initialized();
    in_child(child_is_not_initialized);
}

static void test_fork(void) {
    /* Before the first use of the module. */
    in_child(child_initializes);
    initialize();
    unsigned long session = open_session();
    log_in(session);
    unsigned long key = key_of(session);
    sign(session, key);
    in_child(child_does_nothing);
    in_child(child_only_finalizes);
    in_child(child_is_not_initialized);
    in_child(grandchild);
    /* The parent has lost nothing by that. */
    sign(session, key);
    RV(f->C_Finalize(NULL), CKR_OK);
    in_child(child_initializes);
    in_child(child_only_finalizes);
}

/* A child with the process number of its parent: both are the first of their namespaces. */
static void first_of_namespace(void) {
    CHECK(getpid() == 1);
    initialize();
    use();
    CHECK(unshare(CLONE_NEWPID) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(getpid() == 1);
        alarm(60);
        child_is_not_initialized();
        exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void test_unshare(void) {
    CHECK(unshare(CLONE_NEWPID) == 0);
    in_child(first_of_namespace);
}

static unsigned long shared_key;
static int rounds;

static void *signing(void *unused) {
    (void)unused;
    unsigned long session = open_session();
    for (int i = 0; i < rounds; i++) {
        sign(session, shared_key);
        digest(session);
        if (i % 5 == 0) {
            /* A handle is that of an object, whoever asks. */
            CHECK(key_of(session) == shared_key);
        }
    }
    RV(f->C_CloseSession(session), CKR_OK);
    return NULL;
}

static void test_threads(void) {
    pthread_t threads[64];
    initialize();
    unsigned long session = open_session();
    log_in(session);
    shared_key = key_of(session);
    rounds = 10;
    for (int i = 0; i < 64; i++) {
        CHECK(pthread_create(&threads[i], NULL, signing, NULL) == 0);
    }
    for (int i = 0; i < 64; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    sign(session, shared_key);
    RV(f->C_Finalize(NULL), CKR_OK);
}

static atomic_int running = 1;

/* Calls until the module is finalised under it. */
static void *until_finalized(void *unused) {
    (void)unused;
    while (running) {
        unsigned long session, length = 64;
        struct ck_mechanism eddsa = {0x1057, NULL, 0};
        unsigned char signature[64];
        if (f->C_OpenSession(0, CKF_SERIAL_SESSION, NULL, NULL, &session) == CKR_OK) {
            if (f->C_SignInit(session, &eddsa, shared_key) == CKR_OK) {
                f->C_Sign(session, (unsigned char *)"message", 7, signature, &length);
            }
            f->C_CloseSession(session);
        }
    }
    return NULL;
}

static void *waits_for_event(void *unused) {
    (void)unused;
    unsigned long slot;
    RV(f->C_WaitForSlotEvent(0, &slot, NULL), CKR_CRYPTOKI_NOT_INITIALIZED);
    return NULL;
}

static void begin_calling(pthread_t *threads, int count) {
    initialize();
    unsigned long session = open_session();
    log_in(session);
    shared_key = key_of(session);
    for (int i = 0; i < count; i++) {
        CHECK(pthread_create(&threads[i], NULL, until_finalized, NULL) == 0);
    }
    /* They are under way when each has done something: a signature of ours comes after theirs. */
    for (int i = 0; i < 20; i++) {
        sign(session, shared_key);
    }
}

/* Forks while eight threads call. */
static void test_fork_threads(void) {
    pthread_t threads[8];
    begin_calling(threads, 8);
    for (int i = 0; i < 8; i++) {
        in_child(i % 2 ? child_is_not_initialized : child_only_finalizes);
    }
    running = 0;
    for (int i = 0; i < 8; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    RV(f->C_Finalize(NULL), CKR_OK);
}

/* Finalises while eight threads call, and again and again. */
static void test_finalize_threads(void) {
    pthread_t threads[8], waiting;
    begin_calling(threads, 8);
    CHECK(pthread_create(&waiting, NULL, waits_for_event, NULL) == 0);
    usleep(100000);
    for (int i = 0; i < 20; i++) {
        RV(f->C_Finalize(NULL), CKR_OK);
        initialize();
        use();
    }
    running = 0;
    for (int i = 0; i < 8; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(pthread_join(waiting, NULL) == 0);
}

/* Ends by return from main, with sessions, a login and threads that call. */
static void test_exit_threads(void) {
    pthread_t threads[8];
    begin_calling(threads, 8);
}

static void *initializes_and_uses(void *unused) {
    (void)unused;
    initialize();
    use();
    RV(f->C_Finalize(NULL), CKR_OK);
    return NULL;
}

static void test_unload(char *path) {
    for (int i = 0; i < 1000; i++) {
        void *module = open_module(path);
        f = functions_of(module);
        initialize();
        RV(f->C_Finalize(NULL), CKR_OK);
        CHECK(dlclose(module) == 0);
    }
}

static void test_unload_threads(char *path) {
    pthread_key_t before, after;
    CHECK(pthread_key_create(&before, NULL) == 0);
    for (int i = 0; i < 50; i++) {
        void *module = open_module(path);
        f = functions_of(module);
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, initializes_and_uses, NULL) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
        /* Only now does nothing hold it any more. */
        CHECK(dlclose(module) == 0);
    }
    /* Of the keys that a process has for the memory of its threads, it took a few, once. */
    CHECK(pthread_key_create(&after, NULL) == 0);
    CHECK(after - before < 10);
}

int main(int argc, char **argv) {
    CHECK(argc == 4);
    const char *what = argv[2];
    pin = argv[3];
    if (strcmp(what, "unload") == 0) {
        test_unload(argv[1]);
        return 0;
    }
    if (strcmp(what, "unload-threads") == 0) {
        test_unload_threads(argv[1]);
        return 0;
    }
    f = functions_of(open_module(argv[1]));
    if (strcmp(what, "fork") == 0) {
        test_fork();
    } else if (strcmp(what, "unshare") == 0) {
        test_unshare();
    } else if (strcmp(what, "threads") == 0) {
        test_threads();
    } else if (strcmp(what, "fork-threads") == 0) {
        test_fork_threads();
    } else if (strcmp(what, "finalize-threads") == 0) {
        test_finalize_threads();
    } else if (strcmp(what, "exit") == 0) {
        initialize();
        use();
    } else if (strcmp(what, "exit-threads") == 0) {
        test_exit_threads();
    } else {
        CHECK(!"a test of this name");
    }
    return 0;
}
