/* facts_tls13.c: section 5, stateful tickets and early data. */
#include "lab.h"

const cref_scenario cref_tls13_facts[] = {
    {NULL, NULL},
};
