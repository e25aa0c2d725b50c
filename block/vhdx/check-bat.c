/*
 * VHDX: check of the BAT and of what is where in the file
 *
 * The BAT may have 2^26 entries, and the file may be longer than any disk, so
 * neither is kept in memory.  The file is looked at in windows of 128 TiB, with
 * bitmaps of their MiBs; for each the BAT is gone through twice:
 *
 *   mark    which MiBs are in use by objects and present blocks, and which by
 *           two of them
 *   judge   each entry that names a place in the window, knowing now what
 *           else is there; what is wrong is told, and mended where it may be;
 *           mark which other MiBs an entry names without using them
 *
 * A window's bitmaps reach further by one block, so that blocks across the
 * border are seen whole.  Entries that name no place are judged with the first
 * window.  The maps take 16 MiB each at most, and only those parts of them are
 * touched, of a page each, in which something is marked.  No sane image has
 * blocks in more than MAX_WINDOWS windows; one that does is not checked to its
 * end.
 *
 * How a single entry is judged is in check-entry.c.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/memalign.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/check-bat.h"
#include "block/vhdx/check-report.h"
#include "block/vhdx/file.h"
#include "block/vhdx/space-scan.h"
#include "check-int.h"

#define WINDOW_MIBS     (128 * TiB / MiB)
#define MAX_WINDOWS     16
#define ALL_WINDOWS     (INT64_MAX / MiB / WINDOW_MIBS + 2)

/* -- Entries -- */

/*
 * How many of @count entries, the first of which has index @index, are zero or
 * those of blocks in the state ZERO without a place: there may be millions.
 */
static uint64_t plain_count(BDRVVHDXState *s, uint64_t stride, uint64_t index,
                            const uint64_t *entries, uint64_t count)
{
    uint64_t phase = index % stride, n;

    for (n = 0; n < count; n++) {
        if (entries[n] && (entries[n] != VHDX_BLOCK_ZERO ||
                           phase == stride - 1 ||
                           vhdx_bat_index_is_behind(&s->geo, index + n))) {
            break;
        }
        phase = phase == stride - 1 ? 0 : phase + 1;
    }
    return n;
}

/*
 * Get the next entry from @entries[@i] on that there may be something to say
 * about, of those that the walk has read, the first of which has index @index,
 * and move @i behind it; false if there is none.
 */
static bool entry_next(BDRVVHDXState *s, const VHDXCheckBat *c, uint64_t index,
                       const uint64_t *entries, uint64_t count, uint64_t *i,
                       VHDXCheckEntry *e)
{
    /* Calling vhdx_bat_index_is_bitmap() for each takes a quarter more. */
    uint64_t stride = vhdx_bat_stride(&s->geo);

    *i += plain_count(s, stride, index + *i, entries + *i, count - *i);
    if (*i == count) {
        return false;
    }
    e->index = index + *i;
    e->raw = entries[(*i)++];
    e->block = e->index - e->index / stride;
    e->bitmap = e->index % stride == stride - 1;
    e->behind = vhdx_bat_index_is_behind(&s->geo, e->index);
    e->bytes = s->geo.block_size;
    e->value = vhdx_bat_entry_normalize(e->raw, e->bitmap || e->behind);
    if (c->whole &&
        vhdx_bat_state(e->value) == VHDX_BLOCK_PARTIALLY_PRESENT) {
        e->value = vhdx_bat_entry(VHDX_BLOCK_FULLY_PRESENT,
                                  vhdx_bat_offset(e->value));
    }
    e->offset = vhdx_bat_offset(e->raw);
    e->present = vhdx_bat_is_present(s, e->value) &&
                 vhdx_bat_in_file(s, e->block, e->offset);
    if (s->params.has_parent && e->bitmap && !e->behind) {
        e->bytes = VHDX_BITMAP_SIZE;
        e->value = e->raw & ~VHDX_BAT_RESERVED_MASK;
        e->present = vhdx_bat_state(e->raw) == VHDX_BLOCK_FULLY_PRESENT &&
                     vhdx_bat_bitmap_in_file(s, e->offset);
    }
    e->inside = e->offset && e->offset < vhdx_file_size(s);
    if (e->behind) {
        e->inside = vhdx_bat_may_be_block(s, e->raw);
    }
    e->certain = false;
    return true;
}

/* -- Marking -- */

/*
 * Which bits of the window's maps stand for @bytes bytes at @offset; false if
 * none do.  In the first window, notes in which the others are.
 */
static bool window_clip(VHDXCheckBat *c, uint64_t offset, uint64_t bytes,
                        uint64_t *first, uint64_t *end)
{
    uint64_t mib = offset / VHDX_MIB;
    uint64_t mib_end = DIV_ROUND_UP(offset + bytes, VHDX_MIB);

    if (c->first) {
        set_bit(mib / WINDOW_MIBS, c->windows);
        set_bit((mib_end - 1) / WINDOW_MIBS, c->windows);
    }
    *first = MAX(mib, c->from) - c->from;
    *end = MIN(mib_end, c->from + c->bits) - c->from;
    if (mib >= c->from + c->bits || mib_end <= c->from) {
        return false;
    }
    vhdx_check_touch(c, *first, *end);
    return true;
}

/* @begins of these bytes are where something else can't begin. */
static void mark_used(VHDXCheckBat *c, uint64_t offset, uint64_t bytes,
                      uint64_t begins)
{
    uint64_t first, end;

    if (window_clip(c, offset, bytes, &first, &end)) {
        for (uint64_t i = first; i < end; i++) {
            if (test_and_set_bit(i, c->used)) {
                set_bit(i, c->twice);
            }
        }
    }
    if (window_clip(c, offset, begins, &first, &end)) {
        bitmap_set(c->named, first, end - first);
    }
}

static void mark_object(VHDXCheckBat *c, uint64_t offset, uint64_t bytes)
{
    mark_used(c, offset, bytes, bytes);
}

/* Note what an entry names without using it. */
static void mark_named(VHDXCheckBat *c, uint64_t offset, uint64_t bytes)
{
    uint64_t first, end;

    if (window_clip(c, offset, bytes, &first, &end)) {
        while ((first = find_next_zero_bit(c->used, end, first)) < end) {
            set_bit(first++, c->named);
        }
    }
}

static void mark_objects(BDRVVHDXState *s, VHDXCheckBat *c)
{
    mark_object(c, 0, VHDX_HEADER_SECTION_SIZE);
    if (s->header.log_length) {
        mark_object(c, s->header.log_offset, s->header.log_length);
    }
    mark_object(c, s->bat.offset, s->bat.length);
    mark_object(c, s->metadata.offset, s->metadata.length);
}

/*
 * When all else is marked: what a foreign region holds counts as used, though a
 * block may lie there without harm.
 */
static void mark_foreign(BDRVVHDXState *s, VHDXCheckBat *c)
{
    for (uint32_t i = 0; i < s->region_count; i++) {
        const VHDXRegion *r = &s->regions[i];
        uint64_t first, end;

        if (!vhdx_region_is_foreign(r) || !r->held ||
            !window_clip(c, r->offset, r->held, &first, &end)) {
            continue;
        }
        if (find_next_bit(c->used, end, first) < end) {
            char guid[UUID_STR_LEN];

            uuid_unparse_lower(r->guid.id, guid);
            vhdx_check_note(c->check, "There are blocks in the place of region "
                            "%s, which is not required and not known", guid);
        }
        mark_named(c, r->offset, r->held);
    }
}

static int coroutine_fn GRAPH_RDLOCK
mark_entries(BlockDriverState *bs, uint64_t index, const uint64_t *entries,
             uint64_t count, void *opaque)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXCheckBat *c = opaque;
    BlockFragInfo *bfi = &c->check->result->bfi;
    uint64_t i = 0, first, end;
    int ret = bdrv_is_read_only(bs) ? vhdx_file_learn_length(bs) : 0;
    VHDXCheckEntry e;

    if (ret < 0) {
        return ret;
    }
    while (entry_next(s, c, index, entries, count, &i, &e)) {
        c->bitmaps |= e.bitmap && e.offset;
        c->partial += !e.bitmap && !e.behind && vhdx_bat_state(e.raw) ==
                                                VHDX_BLOCK_PARTIALLY_PRESENT;
        if (e.present) {
            mark_used(c, e.offset, e.bytes, VHDX_MIB);
            if (c->first && !e.bitmap) {
                bfi->allocated_clusters++;
                bfi->fragmented_clusters += c->next && e.offset != c->next;
                c->next = e.offset + s->geo.block_size;
            }
        } else if (e.inside) {
            /* It is judged with its window. */
            window_clip(c, e.offset, e.bytes, &first, &end);
        }
    }
    return 0;
}

/* -- Judging -- */

/* Whether @e is to be judged with this window. */
static bool is_in_window(VHDXCheckBat *c, const VHDXCheckEntry *e)
{
    uint64_t mib = e->offset / VHDX_MIB;

    return e->inside ? mib >= c->from && mib < c->from + c->mibs : c->first;
}

static int coroutine_fn GRAPH_RDLOCK
judge_entries(BlockDriverState *bs, uint64_t index, const uint64_t *entries,
              uint64_t count, void *opaque)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXCheckBat *c = opaque;
    uint64_t i = 0, place;
    int ret = bdrv_is_read_only(bs) ? vhdx_file_learn_length(bs) : 0;
    VHDXCheckEntry e;

    if (ret < 0) {
        return ret;
    }
    while (entry_next(s, c, index, entries, count, &i, &e)) {
        if (!e.bitmap && !e.behind &&
            vhdx_bat_state(e.value) == VHDX_BLOCK_PARTIALLY_PRESENT) {
            c->needs = (e.block >> s->geo.chunk_bits) + 1;
        }
        ret = is_in_window(c, &e) ? vhdx_check_entry_judge(bs, c, &e) : 0;
        place = vhdx_bat_offset(e.certain ? e.value : e.raw);
        if (ret < 0) {
            return ret;
        }
        /* What begins behind the window is marked with the next. */
        if (!e.present && e.inside && place &&
            place / VHDX_MIB < c->from + c->mibs) {
            mark_named(c, place, e.bytes);
        }
    }
    return 0;
}

/* -- The whole -- */

static void tell_odd(VHDXCheckBat *c)
{
    /* For one entry, and for more */
    static const char *const texts[ODD_MAX][2] = {
        [ODD_DRAFT] = {
            "y has state 5, as UNMAPPED was in the format's draft",
            "ies have state 5, as UNMAPPED was in the format's draft"
        },
        [ODD_OFFSET] = {
            "y names an offset in the state NOT_PRESENT",
            "ies name an offset in the state NOT_PRESENT"
        },
        [ODD_PARTIAL] = {
            "y is PARTIALLY_PRESENT in an image without parent, which reads "
            "as FULLY_PRESENT",
            "ies are PARTIALLY_PRESENT in an image without parent, which reads "
            "as FULLY_PRESENT"
        },
        [ODD_BITMAP] = {
            "y of a sector bitmap is not zero in an image without parent",
            "ies of sector bitmaps are not zero in an image without parent"
        },
        [ODD_BEHIND] = {
            "y behind the last one is not zero",
            "ies behind the last one are not zero"
        },
        [ODD_FULL] = {
            "y is PARTIALLY_PRESENT with all its sectors",
            "ies are PARTIALLY_PRESENT with all their sectors"
        },
        [ODD_UNNEEDED] = {
            "y names a sector bitmap block that no block needs",
            "ies name a sector bitmap block that no block needs"
        },
    };

    for (VHDXCheckOdd odd = 0; odd < ODD_MAX; odd++) {
        bool mend = (c->check->fix & BDRV_FIX_ERRORS) && odd < ODD_FULL &&
                    (odd != ODD_BITMAP || !c->child);

        if (c->odd[odd]) {
            vhdx_check_note(c->check, "%s%" PRIu64 " BAT entr%s",
                            mend ? "Repairing: " : "", c->odd[odd],
                            texts[odd][c->odd[odd] > 1]);
        }
    }
    if (c->check->lost) {
        vhdx_check_note(c->check, "%" PRIu64 " BAT entr%s, which may be the "
                        "end of the disk if its size is damaged",
                        c->check->lost, c->check->lost == 1 ?
                        "y behind the last one names a block" :
                        "ies behind the last one name blocks");
    }
}

static unsigned long *part_of(unsigned long *map, uint64_t part)
{
    return map + BIT_WORD(part * VHDX_CHECK_PART);
}

/* Nothing is marked any more. */
static void window_clear(VHDXCheckBat *c)
{
    for (uint64_t part = find_first_bit(c->parts, c->part_count);
         part < c->part_count;
         part = find_next_bit(c->parts, c->part_count, part + 1)) {
        bitmap_zero(part_of(c->used, part), VHDX_CHECK_PART);
        bitmap_zero(part_of(c->twice, part), VHDX_CHECK_PART);
        bitmap_zero(part_of(c->named, part), VHDX_CHECK_PART);
    }
    bitmap_zero(c->parts, c->part_count);
}

/* Add up what is used or named in the window. */
static void window_sum(VHDXCheckBat *c)
{
    for (uint64_t part = find_first_bit(c->parts, c->part_count);
         part < c->part_count;
         part = find_next_bit(c->parts, c->part_count, part + 1)) {
        uint64_t from = part * VHDX_CHECK_PART;
        uint64_t bits = MIN(VHDX_CHECK_PART, c->mibs - MIN(c->mibs, from));
        unsigned long *used = part_of(c->used, part);
        uint64_t last;

        bitmap_or(used, used, part_of(c->named, part), bits);
        c->check->used += bitmap_count_one(used, bits) * VHDX_MIB;
        last = find_last_bit(used, bits);
        if (last < bits) {
            c->check->end = (c->from + from + last + 1) * VHDX_MIB;
        }
    }
}

/* Mark what is in use in the window. */
static int coroutine_fn GRAPH_RDLOCK
window_mark(BlockDriverState *bs, VHDXCheckBat *c)
{
    BDRVVHDXState *s = bs->opaque;
    BlockFragInfo *bfi = &c->check->result->bfi;

    window_clear(c);
    if (c->first) {
        bfi->allocated_clusters = bfi->fragmented_clusters = c->next = 0;
    }
    mark_objects(s, c);
    return vhdx_bat_walk(bs, 0, s->bat.length / VHDX_BAT_ENTRY_SIZE,
                         mark_entries, c);
}

/* Look at the window with number @number. */
static int coroutine_fn GRAPH_RDLOCK
window_check(BlockDriverState *bs, VHDXCheckBat *c, uint64_t number,
             uint64_t all_mibs)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    c->first = number == 0;
    c->from = number * WINDOW_MIBS;
    c->mibs = MIN(WINDOW_MIBS, all_mibs - c->from);
    c->bits = c->mibs + s->geo.block_size / VHDX_MIB;

    ret = window_mark(bs, c);
    if (ret < 0) {
        return ret;
    }
    if (c->first) {
        /* Now all of the BAT has been seen. */
        c->child = s->params.has_parent || s->has_locator ||
                   (c->partial && c->bitmaps);
        c->whole = c->partial && !c->child;
        if (c->whole) {
            ret = window_mark(bs, c);
            if (ret < 0) {
                return ret;
            }
        }
    }
    ret = vhdx_bat_walk(bs, 0, s->bat.length / VHDX_BAT_ENTRY_SIZE,
                        judge_entries, c);
    if (ret < 0) {
        return ret;
    }
    mark_foreign(s, c);
    window_sum(c);
    return 0;
}

/* Look at all windows in which there is something. */
static int coroutine_fn GRAPH_RDLOCK
windows_check(BlockDriverState *bs, VHDXCheck *check)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t block_mibs = s->geo.block_size / VHDX_MIB;
    /* The last block may begin within the file and not end there. */
    uint64_t all_mibs = DIV_ROUND_UP(vhdx_file_size(s), VHDX_MIB) + block_mibs;
    uint64_t bits = ROUND_UP(MIN(WINDOW_MIBS, all_mibs) + block_mibs,
                             VHDX_CHECK_PART);
    VHDXCheckBat c = {
        .check = check,
        .used = bitmap_try_new(bits),
        .twice = bitmap_try_new(bits),
        .named = bitmap_try_new(bits),
        .parts = bitmap_new(bits / VHDX_CHECK_PART),
        .part_count = bits / VHDX_CHECK_PART,
        .windows = bitmap_new(ALL_WINDOWS),
    };
    uint64_t count = 0;
    int ret = -ENOMEM;

    if (!c.used || !c.twice || !c.named) {
        goto out;
    }
    for (uint64_t number = 0; number < ALL_WINDOWS;
         number = find_next_bit(c.windows, ALL_WINDOWS, number + 1)) {
        if (++count > MAX_WINDOWS) {
            vhdx_check_failed(check, "Blocks lie too far apart in the file; it "
                              "was not checked from offset 0x%" PRIx64 " on",
                              number * WINDOW_MIBS * VHDX_MIB);
            break;
        }
        ret = window_check(bs, &c, number, all_mibs);
        if (ret < 0) {
            goto out;
        }
    }
    tell_odd(&c);
out:
    qemu_vfree(c.buf);
    g_free(c.used);
    g_free(c.twice);
    g_free(c.named);
    g_free(c.parts);
    g_free(c.windows);
    return ret;
}

int coroutine_fn vhdx_check_bat(BlockDriverState *bs, VHDXCheck *check)
{
    BDRVVHDXState *s = bs->opaque;
    int fixed = check->result->corruptions_fixed;
    int ret;

    check->result->bfi.total_clusters = s->geo.blocks;
    ret = windows_check(bs, check);
    check->entries_mended = check->result->corruptions_fixed > fixed;
    if (ret < 0) {
        return ret;
    }
    /* It may take as much memory as the maps that are gone now. */
    ret = vhdx_space_doubt(bs);
    if (ret <= 0) {
        return ret;
    }
    check->doubt = true;
    vhdx_check_note(check, "Each block is followed by data where a larger "
                    "block would have it: if the block size of %" PRIu32 " is "
                    "damaged, blocks read wrongly; free space is not used "
                    "again", s->geo.block_size);
    return 0;
}
