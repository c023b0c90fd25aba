/* facts_remove.c: section 3, remove_session_cb. */
#include "lab.h"

const cref_scenario cref_remove_facts[] = {
    {NULL, NULL},
};
