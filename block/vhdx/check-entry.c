/*
 * VHDX: check of a BAT entry
 *
 * An entry is judged by what else there is at the place that it names, which
 * check-bat.c has marked in maps of the file before.
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
#include "qemu/memalign.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/check-report.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/log.h"
#include "check-int.h"

bool vhdx_check_entry_next(BDRVVHDXState *s, const VHDXCheckBat *c,
                           uint64_t index, const uint64_t *entries,
                           uint64_t count, uint64_t *i, VHDXCheckEntry *e)
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
    e->inside = e->offset && e->offset < vhdx_file_size(s);
    if (e->behind) {
        e->inside = vhdx_bat_may_be_block(s, e->raw);
    }
    e->certain = false;
    return true;
}

/* Whether a bit of @map is set at the place that @e names in this window. */
static bool is_marked(BDRVVHDXState *s, VHDXCheckBat *c,
                      const unsigned long *map, const VHDXCheckEntry *e)
{
    uint64_t first = e->offset / VHDX_MIB - c->from;
    uint64_t end = first + s->geo.block_size / VHDX_MIB;

    return find_next_bit(map, end, first) < end;
}

/* Whether @e, in a state that may keep a place, names one not its own. */
static bool is_taken(BDRVVHDXState *s, VHDXCheckBat *c, const VHDXCheckEntry *e)
{
    VHDXBlockState state = vhdx_bat_state(e->value);

    return (state == VHDX_BLOCK_UNDEFINED || state == VHDX_BLOCK_UNMAPPED) &&
           e->offset && (!vhdx_bat_in_file(s, e->block, e->offset) ||
                         is_marked(s, c, c->used, e) ||
                         is_marked(s, c, c->named, e));
}

/* The entry is wrong, and nobody knows what would be right. */
static void judge_wrong(BDRVVHDXState *s, VHDXCheckBat *c,
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
        error_setg(&err, "BAT entry %" PRIu64 " (block %" PRIu64 ") names "
                   "offset 0x%" PRIx64 ", where another block is", e->index,
                   e->block, e->offset);
    }
    vhdx_check_error(c->check, "%s", error_get_pretty(err));
    error_free(err);
}

/* As vhdx_check_odd(), but only counted. */
static int coroutine_fn GRAPH_RDLOCK
judge_odd(BlockDriverState *bs, VHDXCheckBat *c, VHDXCheckEntry *e,
          VHDXCheckOdd odd)
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
may_have_data(BlockDriverState *bs, VHDXCheckBat *c, uint64_t first,
              uint64_t end)
{
    BDRVVHDXState *s = bs->opaque;

    if (find_next_bit(c->named, end, first) < end) {
        return true;
    }
    while ((first = find_next_zero_bit(c->twice, end, first)) < end) {
        uint64_t offset = (c->from + first) * VHDX_MIB;
        uint64_t bytes = MIN((end - first) * VHDX_MIB,
                             vhdx_file_size(s) - offset);
        uint64_t mib = MIN(bytes, VHDX_MIB);
        int64_t n;
        int status;

        if (offset >= vhdx_file_size(s)) {
            return false;
        }
        status = vhdx_file_extent(bs, offset, bytes, &n);
        if (!(status & BDRV_BLOCK_ZERO) || n < mib) {
            c->buf = c->buf ?: qemu_try_blockalign(bs->file->bs, VHDX_MIB);
            if (!c->buf ||
                vhdx_file_pread(bs, offset, mib, c->buf) < 0 ||
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
may_be_block(BlockDriverState *bs, VHDXCheckBat *c, const VHDXCheckEntry *e)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t first = e->offset / VHDX_MIB - c->from;
    uint64_t end = first + s->geo.block_size / VHDX_MIB;

    return e->inside && !vhdx_bat_offset(e->value) &&
           !is_marked(s, c, c->used, e) && may_have_data(bs, c, first, end);
}

/* Whether another block or object begins where @e names a place. */
static bool is_others(VHDXCheckBat *c, const VHDXCheckEntry *e)
{
    uint64_t bit = e->offset / VHDX_MIB - c->from;

    return test_bit(bit, c->used) && test_bit(bit, c->named);
}

/*
 * The entry of a sector bitmap is not zero; see vhdx_check_mend().  Nobody
 * reads it, so it is only odd if it does not look like a block's.  In an image
 * that may have been a child none is touched.
 */
static int coroutine_fn GRAPH_RDLOCK
judge_bitmap(BlockDriverState *bs, VHDXCheckBat *c, VHDXCheckEntry *e)
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
judge_behind(BlockDriverState *bs, VHDXCheckBat *c, VHDXCheckEntry *e)
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
    ret = vhdx_log_begin(bs, VHDX_METADATA);
    if (ret < 0) {
        return ret;
    }
    c->check->given_up++;
    e->certain = true;
    return 1;
}

/* Something is wrong with @e that can be mended; see vhdx_check_mend(). */
static int coroutine_fn GRAPH_RDLOCK
judge_mendable(BlockDriverState *bs, VHDXCheckBat *c, VHDXCheckEntry *e)
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
    return vhdx_commit_put(bs, s->bat.offset + index * VHDX_BAT_ENTRY_SIZE,
                           sizeof(value), &value);
}

static bool is_state_known(uint64_t entry)
{
    return vhdx_bat_state(entry) <= VHDX_BLOCK_UNMAPPED ||
           vhdx_bat_state(entry) == VHDX_BLOCK_FULLY_PRESENT;
}

int coroutine_fn
vhdx_check_entry_judge(BlockDriverState *bs, VHDXCheckBat *c, VHDXCheckEntry *e)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    if (e->present ? is_marked(s, c, c->twice, e)
                   : !is_state_known(e->value) ||
                     vhdx_bat_state(e->value) == VHDX_BLOCK_FULLY_PRESENT) {
        judge_wrong(s, c, e);
        return 0;
    }
    if (e->value == e->raw && !is_taken(s, c, e)) {
        return 0;
    }
    ret = judge_mendable(bs, c, e);
    if (ret <= 0) {
        return ret;
    }
    ret = entry_put(bs, e->index, e->value);
    return ret < 0 ? ret : 1;
}
