/* How many slots a process has. Arguments: the module, and the number that is expected. */

#include "check.h"

int main(int argc, char **argv) {
    CHECK(argc == 3);
    struct ck_function_list *f = functions_of(open_module(argv[1]));
    unsigned long count = 99;
    RV(f->C_Initialize(NULL), CKR_OK);
    RV(f->C_GetSlotList(0, NULL, &count), CKR_OK);
    fprintf(stderr, "%lu slots\n", count);
    CHECK(count == strtoul(argv[2], NULL, 10));
    RV(f->C_Finalize(NULL), CKR_OK);
    return 0;
}
