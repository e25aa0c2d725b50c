/*
 * VHDX: where the log and regions are, when compacting
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "compact-int.h"

uint64_t vhdx_compact_limit(BDRVVHDXState *s, uint64_t packed)
{
    uint64_t limit, last = packed;

    do {
        limit = last;
        last = packed;
        if (s->header.log_offset + s->header.log_length > limit) {
            last -= s->header.log_length;
        }
        for (uint32_t i = 0; i < s->region_count; i++) {
            if (s->regions[i].held &&
                s->regions[i].offset + s->regions[i].held > limit) {
                last -= s->regions[i].held;
            }
        }
    } while (last != limit);
    return limit;
}

uint64_t vhdx_compact_height(BDRVVHDXState *s)
{
    uint64_t sum = s->header.log_offset;

    for (uint32_t i = 0; i < s->region_count; i++) {
        sum += s->regions[i].offset;
    }
    return sum;
}
