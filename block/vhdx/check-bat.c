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
 * window.  The maps take 16 MiB each at most.  No sane image has blocks in more
 * than MAX_WINDOWS windows; one that does is not checked to its end.
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
 * vhdx_bat_entry_normalize().
 * Reserved bits in the entry of a present block are cleared if nothing else is
 * at its place; otherwise the entry as a whole can't be trusted.
 *
 * An entry in the state ZERO or NOT_PRESENT has no place.  If it names one, the
 * offset may be wrong, or the state, which is one bit away from that of a
 * present block: then all there is of the block is this offset.  So it is
 * cleared only if no block can be there, or there are only zeros.  For this the
 * content is read, though nothing of it twice, and by a plain check, too: its
 * findings must not hang on whether others use the place at the time.
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
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/memalign.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/check-bat.h"
#include "block/vhdx/check-report.h"
#include "block/vhdx/log.h"
#include "block/vhdx/replay.h"
#include "block/vhdx/space-scan.h"

#define WINDOW_MIBS     (128 * TiB / MiB)
#define MAX_WINDOWS     16
#define ALL_WINDOWS     (INT64_MAX / MiB / WINDOW_MIBS + 2)

/* Entries that are odd, but no error */
typedef enum Odd {
    ODD_DRAFT,                      /* in the state of the 0.95 draft */
    ODD_OFFSET,                     /* NOT_PRESENT with an offset, no block */
    ODD_PARTIAL,                    /* PARTIALLY_PRESENT, but it is whole */
    ODD_BITMAP,                     /* a sector bitmap's, not zero */
    ODD_BEHIND,                     /* behind the last one */
    ODD_MAX,
} Odd;

typedef struct BatCheck {
    VHDXCheck *check;
    bool first;                     /* this is the first window */
    uint64_t from;                  /* MiB where the window begins */
    uint64_t mibs;                  /* that are in the window */
    uint64_t bits;                  /* ... and in its bitmaps */
    unsigned long *used;
    unsigned long *twice;           /* if not used: seen to be zeros */
    unsigned long *named;           /* not used: by entries; used: its start */
    unsigned long *windows;         /* those in which there is something */
    uint64_t next;                  /* offset behind the last block seen */
    uint64_t partial;               /* blocks that are PARTIALLY_PRESENT */
    bool bitmaps;                   /* a sector bitmap's entry names a place */
    bool whole;                     /* they are present as a whole */
    bool child;                     /* there are traces of a parent */
    uint8_t *buf;                   /* a MiB, when there is need */
    uint64_t odd[ODD_MAX];
} BatCheck;

/* -- Marking -- */

/*
 * Which bits of the window's maps stand for @bytes bytes at @offset; false if
 * none do.  In the first window, notes in which the others are.
 */
static bool window_clip(BatCheck *c, uint64_t offset, uint64_t bytes,
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
    return mib < c->from + c->bits && mib_end > c->from;
}

/* @begins of these bytes are where something else can't begin. */
static void mark_used(BatCheck *c, uint64_t offset, uint64_t bytes,
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

static void mark_object(BatCheck *c, uint64_t offset, uint64_t bytes)
{
    mark_used(c, offset, bytes, bytes);
}

/* Note what an entry names without using it. */
static void mark_named(BatCheck *c, uint64_t offset, uint64_t bytes)
{
    uint64_t first, end;

    if (window_clip(c, offset, bytes, &first, &end)) {
        while ((first = find_next_zero_bit(c->used, end, first)) < end) {
            set_bit(first++, c->named);
        }
    }
}

static void mark_objects(BDRVVHDXState *s, BatCheck *c)
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
static void mark_foreign(BDRVVHDXState *s, BatCheck *c)
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

/* An entry with what is needed to judge it */
typedef struct Entry {
    uint64_t index;
    uint64_t block;                 /* unless @bitmap */
    uint64_t raw;
    uint64_t value;                 /* with what is certain put right */
    uint64_t offset;                /* named by @raw */
    bool bitmap;                    /* a sector bitmap's, by its index */
    bool behind;                    /* ... or behind the last one */
    bool present;                   /* names a block within the file */
    bool inside;                    /* names a place that begins in the file */
    bool certain;                   /* judged: without doubt it means @value */
} Entry;

/*
 * Get the next entry from @entries[@i] on that is not zero, of those that the
 * walk has read, and move @i behind it; false if there is none.
 */
static bool entry_next(BDRVVHDXState *s, const BatCheck *c, uint64_t index,
                       const uint64_t *entries, uint64_t count, uint64_t *i,
                       Entry *e)
{
    /* Calling vhdx_bat_index_is_bitmap() for each takes a quarter more. */
    uint64_t stride = (1ULL << s->geo.chunk_bits) + 1;

    while (*i < count && !entries[*i]) {
        ++*i;
    }
    if (*i == count) {
        return false;
    }
    e->index = index + *i;
    e->raw = entries[(*i)++];
    e->block = e->index - e->index / stride;
    e->bitmap = e->index % stride == stride - 1;
    e->behind = e->index >= s->geo.bat_entries;
    e->value = vhdx_bat_entry_normalize(e->raw, e->bitmap || e->behind);
    if (c->whole &&
        vhdx_bat_state(e->value) == VHDX_BLOCK_PARTIALLY_PRESENT) {
        e->value = vhdx_bat_entry(VHDX_BLOCK_FULLY_PRESENT,
                                  vhdx_bat_offset(e->value));
    }
    e->offset = vhdx_bat_offset(e->raw);
    e->present = vhdx_bat_state(e->value) == VHDX_BLOCK_FULLY_PRESENT &&
                 vhdx_bat_in_file(s, e->block, e->offset);
    e->inside = e->offset && e->offset < s->space.size;
    if (e->behind) {
        e->inside = vhdx_bat_may_be_block(s, e->raw);
    }
    e->certain = false;
    return true;
}

/*
 * What a reader takes to be the file's length may be out of date: who writes to
 * the image has made it longer before there were entries that name the new
 * part.  Called when some have been read.
 */
static int coroutine_fn GRAPH_RDLOCK length_learn(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    int64_t length = bdrv_is_read_only(bs) ? vhdx_file_length(bs) : 0;

    QEMU_LOCK_GUARD(&s->lock);
    s->space.size = MAX((int64_t)s->space.size, length);
    return MIN(length, 0);
}

static int coroutine_fn GRAPH_RDLOCK
mark_entries(BlockDriverState *bs, uint64_t index, const uint64_t *entries,
             uint64_t count, void *opaque)
{
    BDRVVHDXState *s = bs->opaque;
    BatCheck *c = opaque;
    BlockFragInfo *bfi = &c->check->result->bfi;
    uint64_t i = 0, first, end;
    int ret = length_learn(bs);
    Entry e;

    if (ret < 0) {
        return ret;
    }
    while (entry_next(s, c, index, entries, count, &i, &e)) {
        c->bitmaps |= e.bitmap && e.offset;
        c->partial += !e.bitmap && !e.behind && vhdx_bat_state(e.raw) ==
                                                VHDX_BLOCK_PARTIALLY_PRESENT;
        if (e.present) {
            mark_used(c, e.offset, s->geo.block_size, VHDX_MIB);
            if (c->first) {
                bfi->allocated_clusters++;
                bfi->fragmented_clusters += c->next && e.offset != c->next;
                c->next = e.offset + s->geo.block_size;
            }
        } else if (e.inside) {
            /* It is judged with its window. */
            window_clip(c, e.offset, s->geo.block_size, &first, &end);
        }
    }
    return 0;
}

/* -- Judging -- */

/* Whether a bit of @map is set at the place that @e names in this window. */
static bool is_marked(BDRVVHDXState *s, BatCheck *c, const unsigned long *map,
                      const Entry *e)
{
    uint64_t first = e->offset / VHDX_MIB - c->from;
    uint64_t end = first + s->geo.block_size / VHDX_MIB;

    return find_next_bit(map, end, first) < end;
}

/* Whether @e, in a state that may keep a place, names one not its own. */
static bool is_taken(BDRVVHDXState *s, BatCheck *c, const Entry *e)
{
    VHDXBlockState state = vhdx_bat_state(e->value);

    return (state == VHDX_BLOCK_UNDEFINED || state == VHDX_BLOCK_UNMAPPED) &&
           e->offset && (!vhdx_bat_in_file(s, e->block, e->offset) ||
                         is_marked(s, c, c->used, e) ||
                         is_marked(s, c, c->named, e));
}

/* The entry is wrong, and nobody knows what would be right. */
static void judge_wrong(BDRVVHDXState *s, BatCheck *c, const Entry *e)
{
    Error *err = NULL;

    if (c->check->reports >= VHDX_CHECK_REPORTS) {
        /* There may be millions. */
        c->check->result->corruptions++;
        return;
    }
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        vhdx_bat_entry_check(s, e->index, e->value, &err);
    }
    if (!err) {
        error_setg(&err, "BAT entry %" PRIu64 " (block %" PRIu64 ") names "
                   "offset 0x%" PRIx64 ", where another block is", e->index,
                   e->block, e->offset);
    }
    vhdx_check_error(c->check, "%s", error_get_pretty(err));
    error_free(err);
}

/* As vhdx_check_odd(), but only counted. */
static int coroutine_fn GRAPH_RDLOCK
judge_odd(BlockDriverState *bs, BatCheck *c, Entry *e, Odd odd)
{
    e->certain = true;
    c->odd[odd]++;
    return vhdx_check_begin_mend(bs, c->check);
}

/*
 * Whether there may be data in MiBs @first to @end of the window, which are not
 * used.  Where two such places overlap, the second one is not looked at.
 */
static bool coroutine_fn GRAPH_RDLOCK
may_have_data(BlockDriverState *bs, BatCheck *c, uint64_t first, uint64_t end)
{
    BDRVVHDXState *s = bs->opaque;

    if (find_next_bit(c->named, end, first) < end) {
        return true;
    }
    while ((first = find_next_zero_bit(c->twice, end, first)) < end) {
        uint64_t offset = (c->from + first) * VHDX_MIB;
        uint64_t bytes = MIN((end - first) * VHDX_MIB, s->space.size - offset);
        uint64_t mib = MIN(bytes, VHDX_MIB);
        int64_t n;
        int ret;

        if (offset >= s->space.size) {
            return false;
        }
        ret = bdrv_co_block_status(bs->file->bs, offset, bytes, &n, NULL, NULL);
        if (ret < 0 || !(ret & BDRV_BLOCK_ZERO) || n < mib) {
            c->buf = c->buf ?: qemu_try_blockalign(bs->file->bs, VHDX_MIB);
            if (!c->buf ||
                bdrv_co_pread(bs->file, offset, mib, c->buf, 0) < 0 ||
                !buffer_is_zero(c->buf, mib)) {
                return true;
            }
            n = mib;
        }
        bitmap_set(c->twice, first, MAX(n / VHDX_MIB, 1));
    }
    return false;
}

/*
 * Whether the place that @e names, without having one, may be that of a block
 * whose state is damaged.
 */
static bool coroutine_fn GRAPH_RDLOCK
may_be_block(BlockDriverState *bs, BatCheck *c, const Entry *e)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t first = e->offset / VHDX_MIB - c->from;
    uint64_t end = first + s->geo.block_size / VHDX_MIB;

    return e->inside && !vhdx_bat_offset(e->value) &&
           !is_marked(s, c, c->used, e) && may_have_data(bs, c, first, end);
}

/* Whether another block or object begins where @e names a place. */
static bool is_others(BatCheck *c, const Entry *e)
{
    uint64_t bit = e->offset / VHDX_MIB - c->from;

    return test_bit(bit, c->used) && test_bit(bit, c->named);
}

/*
 * The entry of a sector bitmap is not zero; see vhdx_check_mend().  Nobody reads
 * it, so it is only odd if it does not look like a block's.  In an image that
 * may have been a child none is touched.
 */
static int coroutine_fn GRAPH_RDLOCK
judge_bitmap(BlockDriverState *bs, BatCheck *c, Entry *e)
{
    BDRVVHDXState *s = bs->opaque;

    if (!e->inside && c->child) {
        c->odd[ODD_BITMAP]++;
        return 0;
    }
    if (!e->inside || (!vhdx_bat_may_be_block(s, e->raw) && !c->child &&
                       !may_be_block(bs, c, e))) {
        return judge_odd(bs, c, e, ODD_BITMAP);
    }
    e->certain = !c->child && is_others(c, e);
    if (e->certain) {
        return vhdx_check_mend(bs, c->check, "BAT entry %" PRIu64 " names a "
                               "sector bitmap block in an image without "
                               "parent: 0x%016" PRIx64, e->index, e->raw);
    }
    vhdx_check_error(c->check, "BAT entry %" PRIu64 " names a sector bitmap "
                     "block at offset 0x%" PRIx64 " in an image without "
                     "parent: it may be a block%s", e->index, e->offset,
                     c->check->fix & BDRV_FIX_ERRORS ? "; left as it is" : "");
    return 0;
}

/* The same for an entry behind the last one, of whatever kind */
static int coroutine_fn GRAPH_RDLOCK
judge_behind(BlockDriverState *bs, BatCheck *c, Entry *e)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t first = e->offset / VHDX_MIB - c->from;
    uint64_t end = first + s->geo.block_size / VHDX_MIB;
    int ret;

    if (e->bitmap && c->child) {
        c->check->lost += e->inside;
        return 0;
    }
    if (!e->inside || is_others(c, e)) {
        return judge_odd(bs, c, e, ODD_BEHIND);
    }
    if (!c->check->fix || is_marked(s, c, c->used, e) ||
        may_have_data(bs, c, first, end)) {
        c->check->lost++;
        return 0;
    }
    ret = vhdx_log_begin(bs, false);
    if (ret < 0) {
        return ret;
    }
    c->check->given_up++;
    e->certain = true;
    return 1;
}

/* Something is wrong with @e that can be mended; see vhdx_check_mend(). */
static int coroutine_fn GRAPH_RDLOCK
judge_mendable(BlockDriverState *bs, BatCheck *c, Entry *e)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXBlockState state = vhdx_bat_state(e->raw);

    if (e->behind) {
        return judge_behind(bs, c, e);
    }
    if (e->bitmap) {
        return judge_bitmap(bs, c, e);
    }
    if (is_taken(s, c, e)) {
        e->value = vhdx_bat_entry(vhdx_bat_state(e->value), 0);
        e->certain = true;
        return vhdx_check_mend(bs, c->check, "BAT entry %" PRIu64 " (block %"
                               PRIu64 ") names offset 0x%" PRIx64 " in the "
                               "state %s, %s", e->index, e->block, e->offset,
                               state == VHDX_BLOCK_UNDEFINED ? "UNDEFINED" :
                               "UNMAPPED",
                               vhdx_bat_in_file(s, e->block, e->offset) ?
                               "where another object or block is" :
                               "beyond the end of the file");
    }
    if (may_be_block(bs, c, e)) {
        vhdx_check_error(c->check, "BAT entry %" PRIu64 " (block %" PRIu64
                         ") names offset 0x%" PRIx64 " in the state %s: it may "
                         "be a block whose state is damaged%s", e->index,
                         e->block, e->offset,
                         state == VHDX_BLOCK_ZERO ? "ZERO" : "NOT_PRESENT",
                         c->check->fix & BDRV_FIX_ERRORS ? "; left as it is" :
                         "");
        return 0;
    }
    e->certain = true;
    if (e->raw & VHDX_BAT_RESERVED_MASK) {
        return vhdx_check_mend(bs, c->check, "BAT entry %" PRIu64 " (block %"
                               PRIu64 ") has reserved bits set: 0x%016" PRIx64,
                               e->index, e->block, e->raw);
    }
    if (state == VHDX_BLOCK_ZERO) {
        return vhdx_check_mend(bs, c->check, "BAT entry %" PRIu64 " (block %"
                               PRIu64 ") names offset 0x%" PRIx64 " in the "
                               "state ZERO", e->index, e->block, e->offset);
    }
    return judge_odd(bs, c, e,
                     state == VHDX_BLOCK_UNMAPPED_DRAFT ? ODD_DRAFT :
                     state == VHDX_BLOCK_PARTIALLY_PRESENT ? ODD_PARTIAL :
                     ODD_OFFSET);
}

/* Put an entry right.  The log is open. */
static int coroutine_fn GRAPH_RDLOCK
entry_put(BlockDriverState *bs, uint64_t index, uint64_t value)
{
    BDRVVHDXState *s = bs->opaque;

    value = cpu_to_le64(value);
    return vhdx_log_put(bs, s->bat.offset + index * VHDX_BAT_ENTRY_SIZE,
                        sizeof(value), &value);
}

/* Whether @e is to be judged with this window. */
static bool is_in_window(BatCheck *c, const Entry *e)
{
    uint64_t mib = e->offset / VHDX_MIB;

    return e->inside ? mib >= c->from && mib < c->from + c->mibs : c->first;
}

static bool is_state_known(uint64_t entry)
{
    return vhdx_bat_state(entry) <= VHDX_BLOCK_UNMAPPED ||
           vhdx_bat_state(entry) == VHDX_BLOCK_FULLY_PRESENT;
}

/* Returns 1 if the entry has been put right, 0 if not, or -errno. */
static int coroutine_fn GRAPH_RDLOCK
judge_entry(BlockDriverState *bs, BatCheck *c, Entry *e)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = 0;

    if (e->present ? is_marked(s, c, c->twice, e)
                   : !is_state_known(e->value) ||
                     vhdx_bat_state(e->value) == VHDX_BLOCK_FULLY_PRESENT) {
        judge_wrong(s, c, e);
    } else if (e->value != e->raw || is_taken(s, c, e)) {
        ret = judge_mendable(bs, c, e);
        if (ret > 0) {
            ret = entry_put(bs, e->index, e->value);
            return ret < 0 ? ret : 1;
        }
    }
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK
judge_entries(BlockDriverState *bs, uint64_t index, const uint64_t *entries,
              uint64_t count, void *opaque)
{
    BDRVVHDXState *s = bs->opaque;
    BatCheck *c = opaque;
    uint64_t i = 0, place;
    int ret = length_learn(bs);
    Entry e;

    if (ret < 0) {
        return ret;
    }
    while (entry_next(s, c, index, entries, count, &i, &e)) {
        ret = is_in_window(c, &e) ? judge_entry(bs, c, &e) : 0;
        place = vhdx_bat_offset(e.certain ? e.value : e.raw);
        if (ret < 0) {
            return ret;
        }
        /* What begins behind the window is marked with the next. */
        if (!e.present && e.inside && place &&
            place / VHDX_MIB < c->from + c->mibs) {
            mark_named(c, place, s->geo.block_size);
        }
    }
    return 0;
}

/* -- The whole -- */

static void tell_odd(BatCheck *c)
{
    static const char *const texts[ODD_MAX] = {
        [ODD_DRAFT] = "have state 5, as UNMAPPED was in the format's draft",
        [ODD_OFFSET] = "name an offset in the state NOT_PRESENT",
        [ODD_PARTIAL] = "are PARTIALLY_PRESENT in an image without parent, "
                        "which reads as FULLY_PRESENT",
        [ODD_BITMAP] = "of sector bitmaps are not zero in an image without "
                       "parent",
        [ODD_BEHIND] = "behind the last one are not zero",
    };

    for (Odd odd = 0; odd < ODD_MAX; odd++) {
        bool mend = (c->check->fix & BDRV_FIX_ERRORS) &&
                    (odd != ODD_BITMAP || !c->child);

        if (c->odd[odd]) {
            vhdx_check_note(c->check, "%s%" PRIu64 " BAT entries %s",
                            mend ? "Repairing: " : "", c->odd[odd],
                            texts[odd]);
        }
    }
    if (c->check->lost) {
        vhdx_check_note(c->check, "%" PRIu64 " BAT entries behind the last one "
                        "name blocks, which may be the end of the disk if its "
                        "size is damaged", c->check->lost);
    }
}

/* Mark what is in use in the window. */
static int coroutine_fn GRAPH_RDLOCK
window_mark(BlockDriverState *bs, BatCheck *c)
{
    BDRVVHDXState *s = bs->opaque;
    BlockFragInfo *bfi = &c->check->result->bfi;

    bitmap_zero(c->used, c->bits);
    bitmap_zero(c->twice, c->bits);
    bitmap_zero(c->named, c->bits);
    if (c->first) {
        bfi->allocated_clusters = bfi->fragmented_clusters = c->next = 0;
    }
    mark_objects(s, c);
    return vhdx_bat_walk(bs, 0, s->bat.length / VHDX_BAT_ENTRY_SIZE,
                         mark_entries, c);
}

/* Look at the window with number @number. */
static int coroutine_fn GRAPH_RDLOCK
window_check(BlockDriverState *bs, BatCheck *c, uint64_t number,
             uint64_t all_mibs)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t last;
    int ret;

    c->first = number == 0;
    c->from = number * WINDOW_MIBS;
    c->mibs = MIN(WINDOW_MIBS, all_mibs - c->from);
    c->bits = c->mibs + s->geo.block_size / VHDX_MIB;

    ret = window_mark(bs, c);
    if (ret == 0 && c->first) {
        /* Now all of the BAT has been seen. */
        c->child = s->has_locator || (c->partial && c->bitmaps);
        c->whole = c->partial && !c->child;
        if (c->whole) {
            ret = window_mark(bs, c);
        }
    }
    if (ret == 0) {
        ret = vhdx_bat_walk(bs, 0, s->bat.length / VHDX_BAT_ENTRY_SIZE,
                            judge_entries, c);
    }
    if (ret < 0) {
        return ret;
    }
    mark_foreign(s, c);
    bitmap_or(c->used, c->used, c->named, c->mibs);
    c->check->used += bitmap_count_one(c->used, c->mibs) * VHDX_MIB;
    last = find_last_bit(c->used, c->mibs);
    if (last < c->mibs) {
        c->check->end = (c->from + last + 1) * VHDX_MIB;
    }
    return 0;
}

int coroutine_fn vhdx_check_bat(BlockDriverState *bs, VHDXCheck *check)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t block_mibs = s->geo.block_size / VHDX_MIB;
    /* The last block may begin within the file and not end there. */
    uint64_t all_mibs = DIV_ROUND_UP(s->space.size, VHDX_MIB) + block_mibs;
    uint64_t bits = MIN(WINDOW_MIBS, all_mibs) + block_mibs;
    BatCheck c = {
        .check = check,
        .used = bitmap_try_new(bits),
        .twice = bitmap_try_new(bits),
        .named = bitmap_try_new(bits),
        .windows = bitmap_new(ALL_WINDOWS),
    };
    uint64_t count = 0;
    int ret = c.used && c.twice && c.named ? 0 : -ENOMEM;

    check->result->bfi.total_clusters = s->geo.blocks;
    for (uint64_t number = 0; ret == 0 && number < ALL_WINDOWS;
         number = find_next_bit(c.windows, ALL_WINDOWS, number + 1)) {
        if (++count > MAX_WINDOWS) {
            check->result->check_errors++;
            error_report("The blocks lie too far apart in the file: from "
                         "offset 0x%" PRIx64 " on it is not checked",
                         number * WINDOW_MIBS * VHDX_MIB);
            break;
        }
        ret = window_check(bs, &c, number, all_mibs);
    }
    if (ret == 0) {
        tell_odd(&c);
    }
    qemu_vfree(c.buf);
    g_free(c.used);
    g_free(c.twice);
    g_free(c.named);
    g_free(c.windows);
    if (ret == 0) {
        /* It may take as much memory. */
        ret = vhdx_space_doubt(bs);
    }
    if (ret > 0) {
        check->doubt = true;
        vhdx_check_note(check, "There is data behind each block where a longer "
                        "one would have it: if the block size of %" PRIu32
                        " is damaged, blocks read wrongly; free space is not "
                        "used again", s->geo.block_size);
        ret = 0;
    }
    return ret;
}
