/* facts_serial.c: section 7, serialisation. */
#include "lab.h"

const cref_scenario cref_serial_facts[] = {
    {NULL, NULL},
};
