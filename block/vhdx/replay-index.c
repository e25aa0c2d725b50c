/*
 * VHDX: the index of a replay
 *
 * What the log says that the file should hold, as disjoint ranges in order of
 * their file offsets: pages, whose data lies in the log, and runs of zeros.
 * Later ranges go over earlier ones.
 *
 * A log of 4 GiB may change a million pages, and a crafted one can name a
 * hundred times as many places.  So a range takes no more than 24 bytes; the
 * number of a page's entry stands in bits of its offsets that are always zero.
 * They are kept in leaves of 4 KiB, each of which is sorted, as is the list of
 * leaves; a leaf that is full is cut in two.  The number of leaves is bounded.
 * A million pages fit in with much to spare, in whatever order they come.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/format.h"
#include "block/vhdx/replay-index.h"

#define LEAF_SLOTS      170

/* As many leaves take 56 MiB. */
#define MAX_LEAVES      (56 * MiB / (4 * KiB))

/* What is not part of the offset of a page, or of a sector of the log */
#define LOW_BITS        12
#define LOW_MASK        (VHDX_PAGE_SIZE - 1)

/*
 * A range as it is kept.  In the low bits of @start, bit 0 is set for a run of
 * zeros; above it are the high bits of a page's entry, the low ones of which
 * are in @log_offset: 23 in all.
 */
typedef struct Slot {
    uint64_t start;             /* bytes */
    union {
        uint64_t end;           /* of a run of zeros, bytes */
        uint8_t leading[8];     /* of a page */
    };
    uint32_t log_offset;        /* bytes */
    uint8_t trailing[4];
} Slot;

typedef struct Leaf {
    uint32_t count;
    Slot slots[LEAF_SLOTS];
} Leaf;

QEMU_BUILD_BUG_ON(sizeof(Slot) != 24 || sizeof(Leaf) > 4 * KiB);
QEMU_BUILD_BUG_ON(VHDX_PAGE_SIZE != 1 << LOW_BITS);
/* An entry takes a sector at least. */
QEMU_BUILD_BUG_ON(VHDX_MAX_LOG_SIZE / VHDX_LOG_SECTOR >= 1 << 23);

struct VHDXReplayIndex {
    GPtrArray *leaves;          /* Leaf, none of them empty */
};

/* A place in the index, or its end: leaf number leaves->len, slot 0. */
typedef struct Position {
    guint leaf;
    uint32_t slot;
} Position;

VHDXReplayIndex *vhdx_replay_index_new(void)
{
    VHDXReplayIndex *index = g_new(VHDXReplayIndex, 1);

    index->leaves = g_ptr_array_new_with_free_func(g_free);
    return index;
}

void vhdx_replay_index_free(VHDXReplayIndex *index)
{
    g_ptr_array_unref(index->leaves);
    g_free(index);
}

static uint64_t slot_start(const Slot *s)
{
    return s->start & ~(uint64_t)LOW_MASK;
}

static uint64_t slot_end(const Slot *s)
{
    return s->start & 1 ? s->end : slot_start(s) + VHDX_PAGE_SIZE;
}

static void slot_pack(const VHDXReplayRange *range, Slot *s)
{
    *s = (Slot) { .start = range->start | range->zero };
    if (range->zero) {
        s->end = range->end;
    } else {
        s->start |= range->entry >> LOW_BITS << 1;
        s->log_offset = range->log_offset | (range->entry & LOW_MASK);
        memcpy(s->leading, range->leading, sizeof(s->leading));
        memcpy(s->trailing, range->trailing, sizeof(s->trailing));
    }
}

static void slot_unpack(const Slot *s, VHDXReplayRange *range)
{
    *range = (VHDXReplayRange) {
        .start = slot_start(s),
        .end = slot_end(s),
        .zero = s->start & 1,
    };
    if (!range->zero) {
        range->log_offset = s->log_offset & ~LOW_MASK;
        range->entry = (s->start & LOW_MASK) >> 1 << LOW_BITS |
                       (s->log_offset & LOW_MASK);
        memcpy(range->leading, s->leading, sizeof(s->leading));
        memcpy(range->trailing, s->trailing, sizeof(s->trailing));
    }
}

static Leaf *leaf_at(const VHDXReplayIndex *index, guint i)
{
    return g_ptr_array_index(index->leaves, i);
}

/* Where the first range is that ends behind @offset. */
static Position position_find(const VHDXReplayIndex *index, uint64_t offset)
{
    Position pos = { 0 };
    guint leaves = index->leaves->len;
    uint32_t slots;

    while (pos.leaf < leaves) {
        guint mid = pos.leaf + (leaves - pos.leaf) / 2;
        const Leaf *leaf = leaf_at(index, mid);

        if (slot_end(&leaf->slots[leaf->count - 1]) > offset) {
            leaves = mid;
        } else {
            pos.leaf = mid + 1;
        }
    }
    slots = pos.leaf < index->leaves->len ?
            leaf_at(index, pos.leaf)->count : 0;
    while (pos.slot < slots) {
        uint32_t mid = pos.slot + (slots - pos.slot) / 2;

        if (slot_end(&leaf_at(index, pos.leaf)->slots[mid]) > offset) {
            slots = mid;
        } else {
            pos.slot = mid + 1;
        }
    }
    return pos;
}

static void position_remove(VHDXReplayIndex *index, Position pos)
{
    Leaf *leaf = leaf_at(index, pos.leaf);

    leaf->count--;
    memmove(&leaf->slots[pos.slot], &leaf->slots[pos.slot + 1],
            (leaf->count - pos.slot) * sizeof(Slot));
    if (!leaf->count) {
        g_ptr_array_remove_index(index->leaves, pos.leaf);
    }
}

/* Make room for a slot at @pos; returns where it is then. */
static Position position_open(VHDXReplayIndex *index, Position pos)
{
    Leaf *leaf, *next;
    uint32_t keep;

    /* Between two leaves: behind the last slot of the first of them */
    if (pos.slot == 0 && pos.leaf > 0 &&
        leaf_at(index, pos.leaf - 1)->count < LEAF_SLOTS) {
        pos.leaf--;
        pos.slot = leaf_at(index, pos.leaf)->count;
    }
    if (pos.leaf == index->leaves->len) {
        /* Ranges that come in order fill leaf after leaf. */
        g_ptr_array_add(index->leaves, g_new0(Leaf, 1));
    }
    leaf = leaf_at(index, pos.leaf);
    if (leaf->count == LEAF_SLOTS) {
        keep = LEAF_SLOTS / 2;
        next = g_new0(Leaf, 1);
        next->count = LEAF_SLOTS - keep;
        memcpy(next->slots, &leaf->slots[keep], next->count * sizeof(Slot));
        leaf->count = keep;
        g_ptr_array_insert(index->leaves, pos.leaf + 1, next);
        if (pos.slot > keep) {
            pos.leaf++;
            pos.slot -= keep;
            leaf = next;
        }
    }
    memmove(&leaf->slots[pos.slot + 1], &leaf->slots[pos.slot],
            (leaf->count - pos.slot) * sizeof(Slot));
    leaf->count++;
    return pos;
}

static void range_insert(VHDXReplayIndex *index, const VHDXReplayRange *range)
{
    Position pos = position_find(index, range->start);

    pos = position_open(index, pos);
    slot_pack(range, &leaf_at(index, pos.leaf)->slots[pos.slot]);
}

bool vhdx_replay_index_find(const VHDXReplayIndex *index, uint64_t offset,
                            VHDXReplayRange *range)
{
    Position pos = position_find(index, offset);

    if (pos.leaf == index->leaves->len) {
        return false;
    }
    slot_unpack(&leaf_at(index, pos.leaf)->slots[pos.slot], range);
    return true;
}

int vhdx_replay_index_add(VHDXReplayIndex *index, VHDXReplayRange range)
{
    VHDXReplayRange old;

    while (vhdx_replay_index_find(index, range.start, &old) &&
           old.start < range.end) {
        VHDXReplayRange left = old, right = old;

        position_remove(index, position_find(index, range.start));
        if (old.zero && range.zero) {
            range.start = MIN(range.start, old.start);
            range.end = MAX(range.end, old.end);
            continue;
        }
        /* Pages are cut only by ranges that cover them. */
        left.end = range.start;
        right.start = range.end;
        if (left.start < left.end) {
            range_insert(index, &left);
        }
        if (right.start < right.end) {
            range_insert(index, &right);
        }
    }
    range_insert(index, &range);
    return index->leaves->len > MAX_LEAVES ? -E2BIG : 0;
}
