/*
 * VHDX: check and repair
 *
 * A copy of a header or region table that is damaged, and a log that is not in
 * place, are what opening the image for writing mends anyway; check does it on
 * request and says so.  The BAT is then gone through entry by entry.  What two
 * entries both name, or an entry that can't be right, is reported and left
 * alone: nobody knows which of the two is wrong.
 *
 * SPDX-License-Identifier: LGPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "block/vhdx.h"

/* Findings that are told in words; further ones are only counted. */
#define MAX_REPORTS     100

typedef struct Check {
    BdrvCheckResult *result;
    GHashTable *seen;               /* bitmaps of used MiBs, by GiB */
} Check;

static void G_GNUC_PRINTF(2, 3)
check_report(Check *check, const char *format, ...)
{
    va_list ap;

    check->result->corruptions++;
    if (check->result->corruptions > MAX_REPORTS) {
        return;
    }
    fprintf(stderr, "ERROR ");
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fprintf(stderr, "%s\n", check->result->corruptions == MAX_REPORTS ?
            " (further errors are only counted)" : "");
}

/*
 * Note that a block stands at @offset.  Returns whether one did before.  A map
 * of the file, made GiB by GiB where there is something, as the file may be
 * far longer than what is in it.
 */
static bool check_overlap(Check *check, uint64_t offset, uint64_t bytes)
{
    bool overlap = false;

    for (uint64_t end = offset + bytes; offset < end; offset += VHDX_MIB) {
        uint64_t gib = offset / GiB;
        unsigned long *map = g_hash_table_lookup(check->seen, &gib);

        if (!map) {
            map = bitmap_new(GiB / MiB);
            g_hash_table_insert(check->seen, g_memdup2(&gib, sizeof(gib)),
                                map);
        }
        overlap |= test_and_set_bit(offset % GiB / MiB, map);
    }
    return overlap;
}

static int check_entries(BlockDriverState *bs, uint64_t index,
                         const uint64_t *entries, uint64_t count, void *opaque)
{
    BDRVVHDXState *s = bs->opaque;
    Check *check = opaque;

    for (uint64_t i = 0; i < count; i++) {
        Error *err = NULL;
        int ret;

        if (!entries[i]) {
            continue;
        }
        WITH_QEMU_LOCK_GUARD(&s->lock) {
            ret = vhdx_bat_entry_check(s, index + i, entries[i], &err);
        }
        if (ret < 0) {
            check_report(check, "%s", error_get_pretty(err));
            error_free(err);
        } else if (vhdx_bat_state(entries[i]) == VHDX_BLOCK_FULLY_PRESENT &&
                   check_overlap(check, vhdx_bat_offset(entries[i]),
                                 s->geo.block_size)) {
            check_report(check, "BAT entry %" PRIu64 " names offset 0x%" PRIx64
                         ", where another block is", index + i,
                         vhdx_bat_offset(entries[i]));
        }
    }
    return 0;
}

/* What a repair by begin and commit will mend, or would. */
static int check_mendable(BDRVVHDXState *s)
{
    static const char *const copy_names[] = { "first", "second" };
    int found = 0;

    for (int i = 0; i < 2; i++) {
        if (s->mend_header[i]) {
            fprintf(stderr, "The %s copy of the header is damaged\n",
                    copy_names[i]);
            found++;
        }
        if (s->mend_region_table[i]) {
            fprintf(stderr, "The %s copy of the region table is damaged\n",
                    copy_names[i]);
            found++;
        }
    }
    return found;
}

int coroutine_fn vhdx_co_check(BlockDriverState *bs, BdrvCheckResult *result,
                               BdrvCheckMode fix)
{
    BDRVVHDXState *s = bs->opaque;
    Check check = { .result = result };
    bool log = vhdx_replay_active(s);
    int mendable = check_mendable(s);
    int ret;

    if ((fix & BDRV_FIX_ERRORS) && (mendable || log)) {
        ret = vhdx_log_begin(bs, false);
        if (ret == 0) {
            ret = vhdx_log_close(bs);
        }
        if (ret < 0) {
            result->check_errors++;
            return ret;
        }
        result->corruptions_fixed += mendable + log;
    } else {
        result->corruptions += mendable;
    }

    check.seen = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free,
                                       g_free);
    ret = vhdx_bat_walk(bs, 0, s->geo.bat_entries, check_entries, &check);
    g_hash_table_destroy(check.seen);
    if (ret < 0) {
        result->check_errors++;
    }
    return ret;
}
