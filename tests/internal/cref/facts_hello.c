/* facts_hello.c: section 6, looking up without blocking a thread. */
#include "lab.h"

const cref_scenario cref_hello_facts[] = {
    {NULL, NULL},
};
