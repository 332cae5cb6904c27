/* What the programs share: the module, opened as an application opens it, and checks that end the program. */
#pragma once

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CRYPTOKI_GNU 1
#include <p11-kit/pkcs11.h>

#define CHECK(condition)                                                        \
    do {                                                                        \
        if (!(condition)) {                                                     \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);     \
            _Exit(1);                                                           \
        }                                                                       \
    } while (0)

/* Compares a return value with what it must be. */
#define RV(call, expected)                                                              \
    do {                                                                                \
        unsigned long rv_ = (call);                                                     \
        if (rv_ != (unsigned long)(expected)) {                                         \
            fprintf(stderr, "%s:%d: %s: 0x%lx\n", __FILE__, __LINE__, #call, rv_);      \
            _Exit(1);                                                                   \
        }                                                                               \
    } while (0)

static inline void *open_module(const char *path) {
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!module) {
        fprintf(stderr, "%s\n", dlerror());
        _Exit(1);
    }
    return module;
}

static inline struct ck_function_list *functions_of(void *module) {
    ck_rv_t (*get)(struct ck_function_list **) = (ck_rv_t(*)(struct ck_function_list **))dlsym(module, "C_GetFunctionList");
    struct ck_function_list *list = NULL;
    CHECK(get != NULL);
    RV(get(&list), CKR_OK);
    CHECK(list != NULL);
    return list;
}
