/* facts_thread.c: section 4, threads and shared objects. */
#include "lab.h"

const cref_scenario cref_thread_facts[] = {
    {NULL, NULL},
};
