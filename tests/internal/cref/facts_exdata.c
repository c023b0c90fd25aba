/* facts_exdata.c: section 8, ex_data and releasing a handle. */
#include "lab.h"

const cref_scenario cref_exdata_facts[] = {
    {NULL, NULL},
};
