/*
 * VHDX unit tests: what region table and metadata table have in common
 *
 * A table is described by a list of struct Slot, the fields of its entries.
 * The test of each table turns them into bytes.  Each reason to refuse a table
 * has a test that takes a good list and spoils one thing in it.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef TESTS_UNIT_VHDX_TEST_TABLES_H
#define TESTS_UNIT_VHDX_TEST_TABLES_H

#include "vhdx-test-util.h"

#define TABLE_BYTES     (64 * KiB)
#define UNKNOWN_GUID    "00112233-4455-6677-8899-AABBCCDDEEFF"
#define OTHER_GUID      "00112233-4455-6677-8899-AABBCCDDEE00"

/* An entry of either table; both have four fields, in another order. */
typedef struct Slot {
    const char *guid;
    uint64_t offset;
    uint32_t length;
    uint32_t flags;
} Slot;

/* A GUID, unknown to the driver, for each @i. */
static inline const char *guid_number(uint32_t i)
{
    static char texts[2047][37];

    snprintf(texts[i], 37, "%08x-0000-0000-0000-000000000000", i);
    return texts[i];
}

#endif
