/* facts_get.c: section 2, get_session_cb. */
#include "lab.h"

const cref_scenario cref_get_facts[] = {
    {NULL, NULL},
};
