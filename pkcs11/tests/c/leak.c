/* Loses memory, so that a test can see that this is noticed. */

#include <stdlib.h>

int main(void) {
    static void *volatile memory;
    memory = malloc(1000);
    if (memory) {
        memory = NULL;
    }
    return 0;
}
