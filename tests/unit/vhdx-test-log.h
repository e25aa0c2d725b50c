/*
 * VHDX unit tests: making log entries, without the driver
 *
 * An entry is a struct EntrySpec and a list of struct Update; entry_bytes()
 * turns them into what stands in the log, in the order of the format's text:
 * header, descriptors, padding, data sectors, and the checksum at last.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef TESTS_UNIT_VHDX_TEST_LOG_H
#define TESTS_UNIT_VHDX_TEST_LOG_H

#include "vhdx-test-util.h"

typedef struct EntrySpec {
    const char *guid;
    uint64_t sequence;
    uint32_t tail;
    uint64_t flushed;
    uint64_t last;
} EntrySpec;

/* The page at @page is what belongs at @offset, or @zeros bytes of zeros. */
typedef struct Update {
    uint64_t offset;
    const uint8_t *page;
    uint64_t zeros;
} Update;

/* The bytes of an entry, @length of them, to be freed with g_free(). */
static inline uint8_t *entry_bytes(const EntrySpec *spec,
                                   const Update *updates, uint32_t count,
                                   size_t *length)
{
    size_t bytes = 64 + 32 * (size_t)count;
    uint8_t *buf, *desc, *data;

    while (bytes % 4096) {
        bytes++;
    }
    buf = g_malloc0(bytes + 4096 * (size_t)count);
    desc = buf + 64;
    data = buf + bytes;
    for (uint32_t i = 0; i < count; i++) {
        const Update *u = &updates[i];

        if (u->page) {
            memcpy(desc, "desc", 4);
            memcpy(desc + 4, u->page + 4092, 4);
            memcpy(desc + 8, u->page, 8);
            memcpy(data, "data", 4);
            put_le(data + 4, spec->sequence >> 32, 4);
            memcpy(data + 8, u->page + 8, 4084);
            put_le(data + 4092, spec->sequence, 4);
            data += 4096;
            bytes += 4096;
        } else {
            memcpy(desc, "zero", 4);
            put_le(desc + 8, u->zeros, 8);
        }
        put_le(desc + 16, u->offset, 8);
        put_le(desc + 24, spec->sequence, 8);
        desc += 32;
    }

    memcpy(buf, "loge", 4);
    put_le(buf + 8, bytes, 4);
    put_le(buf + 12, spec->tail, 4);
    put_le(buf + 16, spec->sequence, 8);
    put_le(buf + 24, count, 4);
    put_guid(buf + 32, spec->guid);
    put_le(buf + 48, spec->flushed, 8);
    put_le(buf + 56, spec->last, 8);
    seal(buf, bytes);
    *length = bytes;
    return buf;
}

#endif
