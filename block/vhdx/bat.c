/*
 * VHDX: the block allocation table
 *
 * The BAT has one entry for each payload block and, after every chunk of them,
 * one for the chunk's sector bitmap block.  Only a differencing image uses the
 * latter, but all images have them, except behind the last payload block.
 *
 * Entries are looked up in and changed through the page cache; they are judged
 * whenever they are used, not at open, so that opening takes the same time
 * however large the table is.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "qemu/memalign.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/cache.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/replay.h"

/* What vhdx_bat_walk() reads at a time, and how many zeros it leaves out */
#define WALK_BYTES  MiB
#define WALK_ZEROS  ((uint64_t)64 * KiB / VHDX_BAT_ENTRY_SIZE)

/*
 * Whether @entry is that of a block of @bytes bytes that is present, with all
 * of its place in the file and behind all other objects.  By far the most are
 * like that, and then there is nothing that could be wrong.
 */
static bool entry_is_plain(BDRVVHDXState *s, uint64_t entry, uint64_t bytes)
{
    uint64_t offset = vhdx_bat_offset(entry);
    uint64_t size = vhdx_file_size(s);

    return entry == vhdx_bat_entry(VHDX_BLOCK_FULLY_PRESENT, offset) &&
           offset >= s->objects_end && offset < size && bytes <= size - offset;
}

/* The same of a payload block that is PARTIALLY_PRESENT. */
static bool entry_is_plain_part(BDRVVHDXState *s, uint64_t entry)
{
    /* One less in the state is FULLY_PRESENT. */
    return s->params.has_parent &&
           vhdx_bat_state(entry) == VHDX_BLOCK_PARTIALLY_PRESENT &&
           entry_is_plain(s, entry - 1, s->geo.block_size);
}

/*
 * Whether raw BAT entry @entry of payload block @block names a place that may
 * be right, but not all of which the file has.
 */
static bool entry_is_cut(BDRVVHDXState *s, uint64_t block, uint64_t entry)
{
    uint64_t offset = vhdx_bat_offset(entry);

    return vhdx_bat_is_present(s, entry) &&
           !(entry & VHDX_BAT_RESERVED_MASK) &&
           offset <= INT64_MAX - s->geo.block_size &&
           !vhdx_bat_in_file(s, block, offset) &&
           !vhdx_bat_object_at(s, offset, s->geo.block_size);
}

/* Where BAT entry @index stands in the file. */
static uint64_t entry_offset(BDRVVHDXState *s, uint64_t index)
{
    return s->bat.offset + index * VHDX_BAT_ENTRY_SIZE;
}

/*
 * Whether the nodes below do not know of all that @entry, of payload block
 * @block, names: what they take to be behind the end of the file they read as
 * zeros.  Who writes to the image knows the file's length, but a reader knows
 * that of its open, and another process may have made the file longer since.
 */
static bool GRAPH_RDLOCK
entry_unseen(BlockDriverState *bs, uint64_t block, uint64_t entry)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t offset = vhdx_bat_offset(entry);
    uint64_t seen;

    if (!bdrv_is_read_only(bs) ||
        vhdx_bat_state(entry) < VHDX_BLOCK_FULLY_PRESENT) {
        return false;
    }
    seen = bs->file->bs->total_sectors * BDRV_SECTOR_SIZE;
    return offset > seen || vhdx_block_bytes(&s->geo, block) > seen - offset;
}

/* Learn the file's length anew.  lock is held, and dropped meanwhile. */
static int coroutine_fn GRAPH_RDLOCK length_learn(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    vhdx_unlock(s);
    qemu_co_mutex_lock(&s->grow_lock);
    ret = vhdx_file_learn_length(bs);
    qemu_co_mutex_unlock(&s->grow_lock);
    vhdx_lock(s);
    return ret;
}

/*
 * Whether blocks of the chunk of BAT entry @index that are PARTIALLY_PRESENT
 * are so as a whole; see vhdx_bat_entry_resolve().  lock is held, and dropped.
 * That does not change while requests run.  Returns 1, 0 or -errno of reading.
 */
static int coroutine_fn GRAPH_RDLOCK
chunk_has_no_bitmap(BlockDriverState *bs, uint64_t index)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t stride = vhdx_bat_stride(&s->geo);
    uint64_t bitmap = index - index % stride + stride - 1;
    uint64_t offset;
    VHDXPage *page;
    int ret;

    if (s->has_locator || s->params.has_parent) {
        return 0;
    }
    if (bitmap >= s->bat.length / VHDX_BAT_ENTRY_SIZE) {
        return 1;
    }
    offset = entry_offset(s, bitmap);
    ret = vhdx_cache_get(bs, QEMU_ALIGN_DOWN(offset, VHDX_PAGE_SIZE), &page);
    if (ret < 0) {
        return ret;
    }
    return !vhdx_bat_offset(ldq_le_p(page->data + offset % VHDX_PAGE_SIZE));
}

uint64_t coroutine_fn vhdx_bat_entry_resolve(BlockDriverState *bs,
                                             uint64_t index, uint64_t raw)
{
    BDRVVHDXState *s = bs->opaque;

    vhdx_assert_unlocked(s);
    if (vhdx_bat_state(raw) == VHDX_BLOCK_PARTIALLY_PRESENT) {
        VHDX_LOCK_GUARD(s);
        if (chunk_has_no_bitmap(bs, index) > 0) {
            raw -= VHDX_BLOCK_PARTIALLY_PRESENT - VHDX_BLOCK_FULLY_PRESENT;
        }
    }
    return raw;
}

/*
 * Read the BAT entry of @block into @entry, as vhdx_bat_entry_resolve() gives
 * it.  @raw gets where it stands in memory, as long as lock is held.
 */
static int coroutine_fn GRAPH_RDLOCK
entry_read(BlockDriverState *bs, uint64_t block, uint8_t **raw, uint64_t *entry)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t index = vhdx_bat_index(&s->geo, block);
    uint64_t offset = entry_offset(s, index);
    uint64_t in_page = offset % VHDX_PAGE_SIZE;
    bool learnt = false, asked = false;
    int whole = 0, ret;
    VHDXPage *page;

    for (;;) {
        ret = vhdx_cache_get(bs, offset - in_page, &page);
        if (ret < 0) {
            return ret;
        }
        *raw = page->data + in_page;
        *entry = ldq_le_p(*raw);
        if (vhdx_bat_state(*entry) == VHDX_BLOCK_PARTIALLY_PRESENT) {
            if (!asked) {
                asked = true;
                whole = chunk_has_no_bitmap(bs, index);
                if (whole < 0) {
                    return whole;
                }
                continue;
            }
            *entry -= whole;
        }
        if (learnt || !entry_unseen(bs, block, *entry)) {
            return 0;
        }
        ret = length_learn(bs);
        if (ret < 0) {
            return ret;
        }
        learnt = true;
    }
}

int coroutine_fn vhdx_bat_get_run(BlockDriverState *bs, uint64_t block,
                                  uint64_t most, uint64_t *entry,
                                  uint64_t *count)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t index = vhdx_bat_index(&s->geo, block);
    uint64_t read_as = 0, first, step, in_page, n = 1;
    uint8_t *raw;
    int ret;

    vhdx_assert_locked(s);
    ret = entry_read(bs, block, &raw, &read_as);
    *entry = read_as;
    if (ret == 0 && !entry_is_plain(s, read_as, s->geo.block_size) &&
        !entry_is_plain_part(s, read_as)) {
        ret = vhdx_bat_entry_use(bs, index, read_as, entry);
    }
    if (ret < 0) {
        return ret;
    }
    *count = 1;
    if (most == 1 || vhdx_bat_state(*entry) == VHDX_BLOCK_PARTIALLY_PRESENT) {
        return 0;
    }
    /* The run ends with the page, and with the chunk. */
    in_page = entry_offset(s, index) % VHDX_PAGE_SIZE;
    most = MIN(most, (VHDX_PAGE_SIZE - in_page) / VHDX_BAT_ENTRY_SIZE);
    most = MIN(most, ROUND_UP(block + 1, 1ULL << s->geo.chunk_bits) - block);
    first = ldq_le_p(raw);
    step = vhdx_bat_state(*entry) == VHDX_BLOCK_FULLY_PRESENT ?
           s->geo.block_size : 0;
    while (n < most &&
           ldq_le_p(raw + n * VHDX_BAT_ENTRY_SIZE) == first + n * step &&
           (!step ||
            (vhdx_bat_entry_check(s, index + n, read_as + n * step,
                                  NULL) == 0 &&
             !entry_unseen(bs, block + n, read_as + n * step)))) {
        n++;
    }
    *count = n;
    return 0;
}

int coroutine_fn vhdx_bat_get(BlockDriverState *bs, uint64_t block,
                              uint64_t *entry)
{
    uint64_t count;

    return vhdx_bat_get_run(bs, block, 1, entry, &count);
}

int coroutine_fn vhdx_bat_get_bitmap_raw(BlockDriverState *bs, uint64_t chunk,
                                         uint64_t *raw)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t index = vhdx_bat_bitmap_index(&s->geo, chunk);
    uint64_t in_page = entry_offset(s, index) % VHDX_PAGE_SIZE;
    uint64_t offset = entry_offset(s, index) - in_page;
    VHDXPage *page = vhdx_cache_find(s, offset);
    int ret;

    if (!page) {
        ret = vhdx_cache_get(bs, offset, &page);
        return ret < 0 ? ret : 1;
    }
    *raw = ldq_le_p(page->data + in_page);
    return 0;
}

int coroutine_fn vhdx_bat_get_bitmap(BlockDriverState *bs, uint64_t chunk,
                                     uint64_t *place)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t entry;
    int ret;

    vhdx_assert_locked(s);
    ret = vhdx_bat_get_bitmap_raw(bs, chunk, &entry);
    if (ret != 0) {
        return ret;
    }
    if (!entry_is_plain(s, entry, VHDX_BITMAP_SIZE)) {
        ret = vhdx_bat_entry_use(bs, vhdx_bat_bitmap_index(&s->geo, chunk),
                                 entry, &entry);
        if (ret < 0) {
            return ret;
        }
    }
    *place = vhdx_bat_offset(entry);
    return 0;
}

/* The page of BAT entry @index, or NULL if it is not in memory. */
static VHDXPage *entry_page(BDRVVHDXState *s, uint64_t index)
{
    return vhdx_cache_peek(s, QEMU_ALIGN_DOWN(entry_offset(s, index),
                                              VHDX_PAGE_SIZE));
}

bool vhdx_bat_is_loaded(BDRVVHDXState *s, uint64_t block)
{
    vhdx_assert_locked(s);
    return entry_page(s, vhdx_bat_index(&s->geo, block));
}

uint64_t vhdx_bat_get_rest(BDRVVHDXState *s, uint64_t block, uint64_t entry)
{
    uint64_t offset = vhdx_bat_offset(entry);

    vhdx_assert_locked(s);
    return entry_is_cut(s, block, entry) && offset < vhdx_file_size(s) ?
           vhdx_file_size(s) - offset : 0;
}

static void entry_set(BDRVVHDXState *s, uint64_t index, uint64_t entry)
{
    stq_le_p(vhdx_cache_modify(s, entry_page(s, index)) +
             entry_offset(s, index) % VHDX_PAGE_SIZE, entry);
}

void vhdx_bat_set(BDRVVHDXState *s, uint64_t block, uint64_t entry)
{
    vhdx_assert_locked(s);
    entry_set(s, vhdx_bat_index(&s->geo, block), entry);
}

void vhdx_bat_set_bitmap(BDRVVHDXState *s, uint64_t chunk, uint64_t place)
{
    vhdx_assert_locked(s);
    entry_set(s, vhdx_bat_bitmap_index(&s->geo, chunk), place ?
              vhdx_bat_entry(VHDX_BLOCK_FULLY_PRESENT, place) : 0);
}

/*
 * Whether @bytes bytes of the BAT at file offset @offset are a hole in the
 * file that no replay and no page in memory fills.
 */
static bool coroutine_fn GRAPH_RDLOCK
walk_is_hole(BlockDriverState *bs, uint64_t offset, uint64_t bytes)
{
    BDRVVHDXState *s = bs->opaque;
    int64_t n;
    int status = vhdx_file_extent(bs, offset, bytes, &n);

    if (!(status & BDRV_BLOCK_ZERO) || n < bytes ||
        vhdx_replay_covers(s, offset, bytes)) {
        return false;
    }
    VHDX_LOCK_GUARD(s);
    for (uint64_t at = 0; at < bytes; at += VHDX_PAGE_SIZE) {
        if (vhdx_cache_peek(s, offset + at)) {
            return false;
        }
    }
    return true;
}

/*
 * Read @bytes bytes of the BAT at file offset @offset with all changes.
 * Returns 0, 1 if there is only a hole, or -errno.
 */
static int coroutine_fn GRAPH_RDLOCK
walk_read(BlockDriverState *bs, uint64_t offset, uint64_t bytes, uint8_t *buf)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t applied;
    int ret;

    vhdx_lock(s);
    do {
        /* A page may go into place and from memory while this reads: again. */
        applied = vhdx_cache_count_applied(s);
        vhdx_unlock(s);
        ret = walk_is_hole(bs, offset, bytes) ? 1 :
              vhdx_replay_read(bs, offset, bytes, buf);
        vhdx_lock(s);
    } while (ret >= 0 && applied != vhdx_cache_count_applied(s));

    for (uint64_t at = 0; at < bytes && ret == 0; at += VHDX_PAGE_SIZE) {
        VHDXPage *page = vhdx_cache_peek(s, offset + at);

        if (page) {
            memcpy(buf + at, page->data, VHDX_PAGE_SIZE);
        }
    }
    vhdx_unlock(s);
    return ret;
}

/* How many of @count entries are alike: there are only zeros, or others. */
static uint64_t walk_run(const uint64_t *entries, uint64_t count, bool *zeros)
{
    uint64_t n = 0;

    while (n < count) {
        uint64_t some = MIN(count - n, WALK_ZEROS);
        bool is_zero = buffer_is_zero(entries + n, some * VHDX_BAT_ENTRY_SIZE);

        if (n && is_zero != *zeros) {
            break;
        }
        *zeros = is_zero;
        n += some;
    }
    return n;
}

/* Call @func for @count entries as they are in the file, but long zeros. */
static int coroutine_fn GRAPH_RDLOCK
walk_entries(BlockDriverState *bs, uint64_t first, uint64_t *entries,
             uint64_t count, VHDXBatFunc *func, void *opaque)
{
    int ret = 0;

    while (count && ret == 0) {
        bool zeros = true;
        uint64_t n = walk_run(entries, count, &zeros);

        if (!zeros) {
            for (uint64_t i = 0; i < n; i++) {
                le64_to_cpus(&entries[i]);
            }
            ret = func(bs, first, entries, n, opaque);
        }
        first += n;
        entries += n;
        count -= n;
    }
    return ret;
}

int coroutine_fn vhdx_bat_walk(BlockDriverState *bs, uint64_t first,
                               uint64_t end, VHDXBatFunc *func, void *opaque)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t *entries = qemu_try_blockalign(bs->file->bs, WALK_BYTES);
    int ret = 0;

    vhdx_assert_unlocked(s);
    if (!entries) {
        return -ENOMEM;
    }
    while (first < end && ret == 0) {
        uint64_t skip = first % VHDX_BAT_PAGE_ENTRIES;
        uint64_t count = MIN(WALK_BYTES / VHDX_BAT_ENTRY_SIZE - skip,
                             end - first);
        uint64_t bytes = ROUND_UP((skip + count) * VHDX_BAT_ENTRY_SIZE,
                                  VHDX_PAGE_SIZE);

        ret = walk_read(bs, entry_offset(s, first - skip), bytes,
                        (uint8_t *)entries);
        if (ret == 0) {
            ret = walk_entries(bs, first, entries + skip, count, func, opaque);
        } else if (ret > 0) {
            ret = 0;
        }
        first += count;
    }
    qemu_vfree(entries);
    return ret;
}

/* The end of what the blocks gone through need of the file, in bytes */
static int coroutine_fn GRAPH_RDLOCK
missing_walk(BlockDriverState *bs, uint64_t index, const uint64_t *entries,
             uint64_t count, void *opaque)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t *end = opaque;
    uint64_t block;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t entry;

        if (!vhdx_bat_offset(entries[i]) ||
            vhdx_bat_index_is_behind(&s->geo, index + i)) {
            continue;
        }
        entry = vhdx_bat_entry_resolve(bs, index + i, entries[i]);
        VHDX_LOCK_GUARD(s);
        if (vhdx_bat_index_is_bitmap(&s->geo, index + i, &block)) {
            if (s->params.has_parent &&
                vhdx_bat_state(entry) == VHDX_BLOCK_FULLY_PRESENT &&
                vhdx_bat_offset(entry) <= INT64_MAX - VHDX_BITMAP_SIZE) {
                *end = MAX(*end, vhdx_bat_offset(entry) + VHDX_BITMAP_SIZE);
            }
        } else if (entry_is_cut(s, block, entry)) {
            *end = MAX(*end, vhdx_bat_offset(entry) +
                       vhdx_block_bytes(&s->geo, block));
        }
    }
    return 0;
}

int64_t coroutine_fn vhdx_bat_missing(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t end = 0;
    int64_t length;
    int ret;

    ret = vhdx_bat_walk(bs, 0, s->geo.bat_entries, missing_walk, &end);
    if (ret < 0 || !end) {
        return ret;
    }
    /* Another process may have made it longer: that came before the entry. */
    length = vhdx_file_length(bs);
    if (length < 0) {
        return length;
    }
    WITH_VHDX_LOCK_GUARD(s) {
        length = MAX(length, (int64_t)vhdx_file_size(s));
    }
    return MAX((int64_t)end - length, 0);
}
