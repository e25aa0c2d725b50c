/*
 * VHDX: check of a BAT entry
 *
 * An entry is judged by what else there is at the place that it names, which
 * check-bat.c has marked in maps of the file before.  By the verdict it is then
 * told, counted and mended.
 *
 * Nobody reads the entries of sector bitmaps in an image without a parent, and
 * those behind the last block, so what stands there is no error.  But only
 * metadata, which has no checksum, says that they are such: one in the state of
 * a present block, with a place in the file that is no other's, may be a block
 * ("stray").  It is left alone, as an error up to the last block, and as lost
 * space behind it, where a cut in a resize leaves the same.  That is given up
 * if it holds only zeros.  Whether a place is another's does not hang on the
 * length of blocks, which may be what is damaged: only the place counts where
 * the other begins.
 *
 * An entry is mended only where there is no doubt; see
 * vhdx_bat_entry_normalize().  Reserved bits in the entry of a present block
 * are cleared if nothing else is at its place; otherwise the entry as a whole
 * can't be trusted.
 *
 * An entry in the state ZERO or NOT_PRESENT has no place.  If it names one, the
 * offset may be wrong, or the state, which is one bit away from that of a
 * present block: then all there is of the block is this offset.  So it is
 * cleared only if no block can be there, or there are only zeros.  For this the
 * content is read, though nothing of it twice, and by a plain check, too: its
 * findings must not hang on whether others use the place at the time.
 *
 * In a child a sector bitmap block without a block that needs it is no error,
 * and stays.  If the file does not have it, its entry is cleared.
 *
 * UNDEFINED and UNMAPPED blocks may keep their place, where others would put
 * them again when they are written to.  It must be their own for that.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/bswap.h"
#include "qemu/memalign.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/begin.h"
#include "block/vhdx/bitmap.h"
#include "block/vhdx/check-report.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/replay.h"
#include "check-int.h"

/* What there is to say about an entry */
typedef enum Verdict {
    ENTRY_FINE,
    /* An error, told and left alone: nobody knows what would be right. */
    ENTRY_WRONG,
    ENTRY_MAY_BE_BLOCK,             /* names a place in the wrong state */
    ENTRY_STRAY,                    /* the same of a sector bitmap's */
    ENTRY_NO_BITMAP,                /* its sectors are nobody knows where */
    /* An error that can be mended */
    ENTRY_TAKEN,                    /* keeps a place that is not its own */
    ENTRY_RESERVED,                 /* has reserved bits set */
    ENTRY_ZERO_PLACE,               /* names a place in the state ZERO */
    ENTRY_BITMAP,                   /* a sector bitmap's, at a place in use */
    ENTRY_BITMAP_GONE,              /* ... that the file has not, unneeded */
    /* No error: behind the last block, with a place in the file */
    ENTRY_LOST,
    ENTRY_GIVE_UP,                  /* ... that holds only zeros */
    /* No error, only counted */
    ENTRY_ODD_KEPT,                 /* a sector bitmap's, which is not mended */
    ENTRY_ODD,                      /* a VHDXCheckOdd is added to this */
} Verdict;

/* Whether a bit of @map is set at the place that @e names in this window. */
static bool is_marked(VHDXCheckBat *c, const unsigned long *map,
                      const VHDXCheckEntry *e)
{
    uint64_t first = e->offset / VHDX_MIB - c->from;
    uint64_t end = first + e->bytes / VHDX_MIB;

    return find_next_bit(map, end, first) < end;
}

/* Whether @e, in a state that may keep a place, names one not its own. */
static bool is_taken(BDRVVHDXState *s, VHDXCheckBat *c, const VHDXCheckEntry *e)
{
    VHDXBlockState state = vhdx_bat_state(e->value);

    return (state == VHDX_BLOCK_UNDEFINED || state == VHDX_BLOCK_UNMAPPED) &&
           e->offset && (!vhdx_bat_in_file(s, e->block, e->offset) ||
                         is_marked(c, c->used, e) ||
                         is_marked(c, c->named, e));
}

/* -- The verdict -- */

/*
 * Whether there may be data in MiBs @first to @end of the window, which are not
 * used.  Where two such places overlap, the second one is not looked at.
 */
static bool coroutine_fn GRAPH_RDLOCK
may_have_data(BlockDriverState *bs, VHDXCheckBat *c, uint64_t first,
              uint64_t end)
{
    BDRVVHDXState *s = bs->opaque;

    if (find_next_bit(c->named, end, first) < end) {
        return true;
    }
    c->buf = c->buf ?: qemu_try_blockalign(bs->file->bs, VHDX_MIB);
    if (!c->buf) {
        return true;
    }
    while ((first = find_next_zero_bit(c->twice, end, first)) < end) {
        uint64_t next = find_next_bit(c->twice, end, first);
        uint64_t offset = (c->from + first) * VHDX_MIB;
        uint64_t until = MIN((c->from + next) * VHDX_MIB, vhdx_file_size(s));
        uint64_t budget = UINT64_MAX;
        int ret = vhdx_replay_find_data(bs, &offset, until, c->buf, &budget);

        if (ret == 0) {
            offset = (c->from + next) * VHDX_MIB;
        }
        vhdx_check_touch(c, first, next);
        bitmap_set(c->twice, first, offset / VHDX_MIB - c->from - first);
        if (ret != 0) {
            return true;
        }
    }
    return false;
}

/*
 * Whether the place that @e names, without having one, may be that of a block
 * whose state is damaged.
 */
static bool coroutine_fn GRAPH_RDLOCK
may_be_block(BlockDriverState *bs, VHDXCheckBat *c, const VHDXCheckEntry *e)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t first = e->offset / VHDX_MIB - c->from;
    uint64_t end = first + s->geo.block_size / VHDX_MIB;

    return e->inside && !vhdx_bat_offset(e->value) &&
           !is_marked(c, c->used, e) && may_have_data(bs, c, first, end);
}

/* Whether another block or object begins where @e names a place. */
static bool is_others(VHDXCheckBat *c, const VHDXCheckEntry *e)
{
    uint64_t bit = e->offset / VHDX_MIB - c->from;

    return test_bit(bit, c->used) && test_bit(bit, c->named);
}

static Verdict verdict_odd(VHDXCheckOdd odd)
{
    return ENTRY_ODD + (int)odd;
}

/*
 * The entry of a sector bitmap is not zero.  Nobody reads it, so it is only odd
 * if it does not look like a block's.  In an image that may have been a child
 * none is touched.
 */
static Verdict coroutine_fn GRAPH_RDLOCK
verdict_bitmap(BlockDriverState *bs, VHDXCheckBat *c, const VHDXCheckEntry *e)
{
    BDRVVHDXState *s = bs->opaque;

    if (!e->inside) {
        return c->child ? ENTRY_ODD_KEPT : verdict_odd(ODD_BITMAP);
    }
    if (c->child) {
        return ENTRY_STRAY;
    }
    if (!vhdx_bat_may_be_block(s, e->raw) && !may_be_block(bs, c, e)) {
        return verdict_odd(ODD_BITMAP);
    }
    return is_others(c, e) ? ENTRY_BITMAP : ENTRY_STRAY;
}

/* An entry behind the last one, of whatever kind, is not zero. */
static Verdict coroutine_fn GRAPH_RDLOCK
verdict_behind(BlockDriverState *bs, VHDXCheckBat *c, const VHDXCheckEntry *e)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t first = e->offset / VHDX_MIB - c->from;
    uint64_t end = first + s->geo.block_size / VHDX_MIB;

    if (e->bitmap && c->child) {
        return e->inside ? ENTRY_LOST : ENTRY_FINE;
    }
    if (!e->inside || is_others(c, e)) {
        return verdict_odd(ODD_BEHIND);
    }
    if (!c->check->fix || is_marked(c, c->used, e) ||
        may_have_data(bs, c, first, end)) {
        return ENTRY_LOST;
    }
    return ENTRY_GIVE_UP;
}

/* The entry of a block is not as it should be. */
static Verdict coroutine_fn GRAPH_RDLOCK
verdict_block(BlockDriverState *bs, VHDXCheckBat *c, const VHDXCheckEntry *e)
{
    if (is_taken(bs->opaque, c, e)) {
        return ENTRY_TAKEN;
    }
    if (may_be_block(bs, c, e)) {
        return ENTRY_MAY_BE_BLOCK;
    }
    if (e->raw & VHDX_BAT_RESERVED_MASK) {
        return ENTRY_RESERVED;
    }
    switch (vhdx_bat_state(e->raw)) {
    case VHDX_BLOCK_ZERO:
        return ENTRY_ZERO_PLACE;
    case VHDX_BLOCK_UNMAPPED_DRAFT:
        return verdict_odd(ODD_DRAFT);
    case VHDX_BLOCK_PARTIALLY_PRESENT:
        return verdict_odd(ODD_PARTIAL);
    default:
        return verdict_odd(ODD_OFFSET);
    }
}

/* Whether an entry that names nothing within the file is wrong by its state. */
static bool is_state_wrong(BDRVVHDXState *s, const VHDXCheckEntry *e)
{
    VHDXBlockState state = vhdx_bat_state(e->value);

    if (s->params.has_parent && e->bitmap && !e->behind) {
        return state != VHDX_BLOCK_NOT_PRESENT;
    }
    return state > VHDX_BLOCK_UNMAPPED;
}

/* Get the entry of the sector bitmap for the block of @e; 0 or -errno. */
static int coroutine_fn GRAPH_RDLOCK
bitmap_of(BlockDriverState *bs, const VHDXCheckEntry *e, uint64_t *raw)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = 1;

    VHDX_LOCK_GUARD(s);
    while (ret > 0) {
        ret = vhdx_bat_get_bitmap_raw(bs, e->block >> s->geo.chunk_bits, raw);
    }
    return ret;
}

/*
 * Whether @e, of a block that is PARTIALLY_PRESENT, has no bitmap that tells
 * which of its sectors are there.  That of an entry with reserved bits does.
 */
static bool coroutine_fn GRAPH_RDLOCK
lacks_bitmap(BlockDriverState *bs, const VHDXCheckEntry *e)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t raw;

    if (e->bitmap || e->behind ||
        vhdx_bat_state(e->value) != VHDX_BLOCK_PARTIALLY_PRESENT) {
        return false;
    }
    if (bitmap_of(bs, e, &raw) < 0 ||
        vhdx_bat_state(raw) != VHDX_BLOCK_FULLY_PRESENT) {
        return true;
    }
    VHDX_LOCK_GUARD(s);
    return vhdx_bat_entry_check(s, vhdx_bat_bitmap_index(
                                    &s->geo, e->block >> s->geo.chunk_bits),
                                raw & ~VHDX_BAT_RESERVED_MASK, NULL) < 0;
}

/* Whether a block before @e, the entry of a sector bitmap, needs its bits. */
static bool is_needed(BDRVVHDXState *s, VHDXCheckBat *c,
                      const VHDXCheckEntry *e)
{
    return c->needs == e->index / vhdx_bat_stride(&s->geo) + 1;
}

/* Whether @e names a sector bitmap block that is not there, nor needed. */
static bool is_bitmap_gone(BDRVVHDXState *s, VHDXCheckBat *c,
                           const VHDXCheckEntry *e)
{
    return s->params.has_parent && e->bitmap && !e->behind && !e->present &&
           vhdx_bat_state(e->raw) == VHDX_BLOCK_FULLY_PRESENT &&
           !is_needed(s, c, e);
}

/* Judge @e, for which the file may be read, but change and tell nothing. */
static Verdict coroutine_fn GRAPH_RDLOCK
entry_verdict(BlockDriverState *bs, VHDXCheckBat *c, const VHDXCheckEntry *e)
{
    BDRVVHDXState *s = bs->opaque;

    if (is_bitmap_gone(s, c, e)) {
        return ENTRY_BITMAP_GONE;
    }
    if (e->present ? is_marked(c, c->twice, e) : is_state_wrong(s, e)) {
        return ENTRY_WRONG;
    }
    if (lacks_bitmap(bs, e)) {
        return ENTRY_NO_BITMAP;
    }
    if (e->value == e->raw && !is_taken(s, c, e)) {
        return ENTRY_FINE;
    }
    if (s->params.has_parent && e->bitmap && !e->behind) {
        return ENTRY_RESERVED;
    }
    return e->behind ? verdict_behind(bs, c, e) :
           e->bitmap ? verdict_bitmap(bs, c, e) : verdict_block(bs, c, e);
}

/* -- What is done about it -- */

/* What @e, in its place up to the last block, is the entry of */
static char *entry_name(const VHDXCheckEntry *e)
{
    return e->bitmap ? g_strdup("sector bitmap") :
           g_strdup_printf("block %" PRIu64, e->block);
}

/* Tell of ENTRY_WRONG. */
static void tell_wrong(BDRVVHDXState *s, VHDXCheckBat *c,
                       const VHDXCheckEntry *e)
{
    Error *err = NULL;

    if (c->check->reports >= VHDX_CHECK_REPORTS) {
        /* There may be millions. */
        c->check->result->corruptions++;
        return;
    }
    WITH_VHDX_LOCK_GUARD(s) {
        vhdx_bat_entry_check(s, e->index, e->value, &err);
    }
    if (!err) {
        g_autofree char *what = entry_name(e);

        error_setg(&err, "BAT entry %" PRIu64 " (%s) names offset 0x%" PRIx64
                   ", where another block is", e->index, what, e->offset);
    }
    vhdx_check_error(c->check, "%s", error_get_pretty(err));
    error_free(err);
}

/* Tell of a place that may be a block's, though the entry is not. */
static void tell_may_be_block(VHDXCheckBat *c, const VHDXCheckEntry *e)
{
    const char *left = c->check->fix & BDRV_FIX_ERRORS ? "; left as it is" : "";

    if (e->bitmap) {
        vhdx_check_error(c->check, "BAT entry %" PRIu64 " names a sector "
                         "bitmap block at offset 0x%" PRIx64 " in an image "
                         "without parent: it may be a block%s", e->index,
                         e->offset, left);
    } else {
        vhdx_check_error(c->check, "BAT entry %" PRIu64 " (block %" PRIu64
                         ") names offset 0x%" PRIx64 " in the state %s: it may "
                         "be a block whose state is damaged%s", e->index,
                         e->block, e->offset,
                         vhdx_bat_state(e->raw) == VHDX_BLOCK_ZERO ? "ZERO" :
                         "NOT_PRESENT", left);
    }
}

/* Tell of ENTRY_TAKEN; see vhdx_check_mend(). */
static int coroutine_fn GRAPH_RDLOCK
tell_taken(BlockDriverState *bs, VHDXCheckBat *c, const VHDXCheckEntry *e)
{
    bool in_file = vhdx_bat_in_file(bs->opaque, e->block, e->offset);

    return vhdx_check_mend(bs, c->check, "BAT entry %" PRIu64 " (block %" PRIu64
                           ") names offset 0x%" PRIx64 " in the state %s, %s",
                           e->index, e->block, e->offset,
                           vhdx_bat_state(e->raw) == VHDX_BLOCK_UNDEFINED ?
                           "UNDEFINED" : "UNMAPPED",
                           in_file ? "where another object or block is" :
                           "beyond the end of the file");
}

/*
 * Tell of what can be mended by @v, or count it.  Returns 1 if @e is to be put
 * right now: the log is open then.  Returns 0 if not, or -errno.
 */
static int coroutine_fn GRAPH_RDLOCK
begin_mend(BlockDriverState *bs, VHDXCheckBat *c, VHDXCheckEntry *e, Verdict v)
{
    g_autofree char *what = entry_name(e);
    int ret;

    switch (v) {
    case ENTRY_TAKEN:
        e->value = vhdx_bat_entry(vhdx_bat_state(e->value), 0);
        return tell_taken(bs, c, e);
    case ENTRY_RESERVED:
        return vhdx_check_mend(bs, c->check, "BAT entry %" PRIu64 " (%s) has "
                               "reserved bits set: 0x%016" PRIx64, e->index,
                               what, e->raw);
    case ENTRY_ZERO_PLACE:
        return vhdx_check_mend(bs, c->check, "BAT entry %" PRIu64 " (block %"
                               PRIu64 ") names offset 0x%" PRIx64 " in the "
                               "state ZERO", e->index, e->block, e->offset);
    case ENTRY_BITMAP:
        return vhdx_check_mend(bs, c->check, "BAT entry %" PRIu64 " names a "
                               "sector bitmap block in an image without "
                               "parent: 0x%016" PRIx64, e->index, e->raw);
    case ENTRY_BITMAP_GONE:
        e->value = 0;
        return vhdx_check_mend(bs, c->check, "BAT entry %" PRIu64 " (sector "
                               "bitmap) names offset 0x%" PRIx64 ", beyond the "
                               "end of the file, but no block needs it",
                               e->index, e->offset);
    case ENTRY_GIVE_UP:
        ret = vhdx_begin(bs, VHDX_METADATA);
        if (ret < 0) {
            return ret;
        }
        c->check->given_up++;
        return 1;
    default:
        assert(v >= ENTRY_ODD);
        c->odd[v - ENTRY_ODD]++;
        return vhdx_check_begin_mend(bs, c->check);
    }
}

/* Put an entry right.  The log is open. */
static int coroutine_fn GRAPH_RDLOCK
entry_put(BlockDriverState *bs, uint64_t index, uint64_t value)
{
    BDRVVHDXState *s = bs->opaque;

    value = cpu_to_le64(value);
    return vhdx_commit_put(bs, s->bat.offset + index * VHDX_BAT_ENTRY_SIZE,
                           sizeof(value), &value);
}

/* Note what a child could do without, of which @e is a part without fault. */
static int coroutine_fn GRAPH_RDLOCK
count_unneeded(BlockDriverState *bs, VHDXCheckBat *c, const VHDXCheckEntry *e)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t raw = 0;
    int ret = 0;

    if (!s->params.has_parent || e->behind || !e->present) {
        return 0;
    }
    if (e->bitmap && is_needed(s, c, e)) {
        c->check->bitmaps++;
    } else if (e->bitmap) {
        c->odd[ODD_UNNEEDED]++;
    } else if (vhdx_bat_state(e->value) == VHDX_BLOCK_PARTIALLY_PRESENT) {
        /* Nobody reads the bits behind an entry that is an error. */
        ret = bitmap_of(bs, e, &raw);
        if (ret == 0 && !(raw & VHDX_BAT_RESERVED_MASK)) {
            ret = vhdx_bitmap_is_full(bs, e->block);
        }
        c->odd[ODD_FULL] += ret > 0;
    }
    return MIN(ret, 0);
}

int coroutine_fn
vhdx_check_entry_judge(BlockDriverState *bs, VHDXCheckBat *c, VHDXCheckEntry *e)
{
    Verdict v = entry_verdict(bs, c, e);
    int ret;

    switch (v) {
    case ENTRY_FINE:
        return count_unneeded(bs, c, e);
    case ENTRY_WRONG:
        tell_wrong(bs->opaque, c, e);
        return 0;
    case ENTRY_NO_BITMAP:
        vhdx_check_error(c->check, "BAT entry %" PRIu64 " (block %" PRIu64
                         ") is PARTIALLY_PRESENT, but there is no sector "
                         "bitmap for it", e->index, e->block);
        return 0;
    case ENTRY_MAY_BE_BLOCK:
    case ENTRY_STRAY:
        tell_may_be_block(c, e);
        return 0;
    case ENTRY_LOST:
        c->check->lost++;
        return 0;
    case ENTRY_ODD_KEPT:
        c->odd[ODD_BITMAP]++;
        return 0;
    default:
        break;
    }
    e->certain = true;
    ret = begin_mend(bs, c, e, v);
    if (ret <= 0) {
        return ret;
    }
    ret = entry_put(bs, e->index, e->value);
    return ret < 0 ? ret : 1;
}
