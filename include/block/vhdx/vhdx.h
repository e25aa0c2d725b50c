/*
 * VHDX: the open image
 *
 * Layers, each of which calls only those before it:
 *
 *   format                       bytes and structs (format.h)
 *   header, metadata, replay     what open reads
 *   cache, bat, space, ring, log state of an image that is being changed
 *   io, resize, check, move,
 *   compact                      requests
 *   create                       new images
 *   vhdx.c                       the BlockDriver
 *
 * Locks.  Requests may come from several threads.
 *
 * @lock, a QemuMutex, guards everything in memory that a request looks at:
 * pages, allocations, free space, tickets.  It is held for a few instructions
 * and never across I/O or a yield: functions that may need either drop it, and
 * say so.  The queues are waited on and woken under it, so that no wake-up is
 * lost.  A plain read or write of a present block takes nothing else.
 *
 * @commit_lock, a CoMutex, is held across I/O by whoever changes headers or
 * the log: the first modification, a commit, closing the log.  @grow_lock, a
 * CoMutex too, is held across I/O by the one who makes the file longer, looks
 * for free space inside it or makes freed space available again.  The order is
 * commit_lock, grow_lock, lock.  Nobody waits for a request to end while
 * holding one of them, as that request may need it.
 *
 * What is read under lock but changes only with one of the CoMutexes is
 * changed under both, and its changer may read it under either: the header
 * (but for log_offset and log_length, which never change and are read under
 * none), whether the log is open, @logged of pages and their number, and @size,
 * @scanned and @fixed_size of the space.
 *
 * A page that is dirty, logged or being committed stays in memory, and so does
 * an allocation with a reference; other pointers to them end with lock.  What
 * a request has looked up in the BAT may be out of date as soon as lock is
 * dropped, but the request's ticket keeps the place it names from being used
 * for anything else.
 *
 * @writable, @broken and @replay_done are read atomically under no lock.
 *
 * Open, close, reopen, inactivation and check come with no request under way;
 * an activation comes with reads, and freezes them.
 *
 * SPDX-License-Identifier: LGPL-2.0-or-later
 */

#ifndef BLOCK_VHDX_H
#define BLOCK_VHDX_H

#include "qemu/coroutine.h"
#include "qemu/queue.h"
#include "qemu/thread.h"
#include "block/vhdx/compat.h"
#include "block/vhdx/format.h"

/* Memory that metadata pages may take: the default, and what is allowed */
#define VHDX_CACHE_SIZE         (32 * MiB)
#define VHDX_CACHE_SIZE_MIN     (256 * KiB)
#define VHDX_CACHE_SIZE_MAX     TiB

/*
 * Whether the error @ret of changing a node's length means that its length
 * can't be changed, or not this way.
 */
static inline bool vhdx_length_refused(int ret)
{
    return ret == -EINVAL || ret == -ENOTSUP || ret == -EPERM;
}

/* Said of a protocol that can't do what falloc asks for. */
#define VHDX_NO_FALLOC \
    "has no preallocation mode 'falloc' ('full' writes zeros instead)"

/* -- Metadata pages: cache.c -- */

/*
 * 4 KiB of BAT (or another table) and where its changes have got to.  @data is
 * what a request sees.  A change makes the page dirty; a commit takes that
 * version as @committing, and once it is stable in the log it is @logged, until
 * it is stable in place too.  Versions that are alike are one buffer.
 * Only pages without any change under way may be dropped.
 */
typedef struct VHDXPage {
    uint64_t offset;                /* bytes from the start of the file */
    uint8_t *data;
    uint8_t *committing;            /* a commit writes this now, or NULL */
    uint8_t *logged;                /* not yet stable in place, or NULL */
    bool placed;                    /* @logged has been written there */
    bool loading;                   /* @data is not there yet */
    bool dirty;                     /* @data has changes not yet logged */
    QTAILQ_ENTRY(VHDXPage) next;            /* in the cache's lru list */
    QTAILQ_ENTRY(VHDXPage) dirty_next;      /* ... and, if dirty, dirty_list */
    QTAILQ_ENTRY(VHDXPage) logged_next;     /* ... if @logged, in one of two */
} VHDXPage;

typedef struct VHDXCache {
    GHashTable *pages;              /* by offset */
    QTAILQ_HEAD(, VHDXPage) lru;    /* all pages, oldest first */
    QTAILQ_HEAD(, VHDXPage) dirty_list;
    QTAILQ_HEAD(, VHDXPage) logged_list;    /* @logged, and not @placed */
    QTAILQ_HEAD(, VHDXPage) placed_list;
    CoQueue loaded;                 /* waits for loading to end */
    unsigned dirty;                 /* number of dirty pages */
    unsigned logged;                /* ... and of those in logged_list */
    unsigned limit;                 /* number of buffers to use at the most */
    unsigned buffers;               /* ... and in use */
    GPtrArray *chunks;              /* memory that buffers are cut from */
    void *free_buffers;
    uint64_t next_miss;             /* offset behind what was read last */
    uint64_t placed;                /* counts pages written in place */
} VHDXCache;

/* -- Replay: replay.c, replay-index.c -- */

/* A range of the file: one page whose data lies in the log, or zeros. */
typedef struct VHDXReplayRange {
    uint64_t start;                 /* bytes, file offset */
    uint64_t end;
    bool zero;
    uint32_t log_offset;            /* of the data sector */
    uint32_t entry;                 /* it is of: 0 is the sequence's first */
    uint8_t leading[8];
    uint8_t trailing[4];
} VHDXReplayRange;

typedef struct VHDXReplayIndex VHDXReplayIndex;

/*
 * What the active log sequence says that the file should hold.  Fixed once
 * built, so it is read under no lock.
 */
typedef struct VHDXReplay {
    VHDXReplayIndex *index;
    uint64_t sequence;              /* of the oldest entry */
    uint64_t last_file_offset;      /* of the newest entry, bytes */
} VHDXReplay;

/* -- Space: space.c -- */

typedef struct VHDXFreed {
    uint64_t offset;                /* bytes */
    uint64_t length;                /* bytes */
    uint64_t ticket;                /* requests before it may still use it */
} VHDXFreed;

typedef struct VHDXSpace {
    uint64_t end;                   /* end of the last object, bytes */
    uint64_t size;                  /* length of the file, bytes */
    uint64_t zero_from;             /* free space from here on reads as zeros */
    uint64_t keep;                  /* a fixed image isn't cut below, bytes */
    bool fixed_size;                /* the node has refused to grow */
    bool unsure;                    /* nor has a flush made @size stable */
    bool uncut;                     /* it has been told to shrink, in vain */
    bool cut_told;                  /* ... and that has been reported */
    bool scanning;                  /* the map is being made: none to take */
    bool scanned;                   /* the map tells of all that is free */
    bool overlap;                   /* ... and a place may be two blocks' */
    bool damaged;                   /* an entry can't be, or was not, right */
    uint64_t lost;                  /* entries that vhdx_bat_may_be_block() */
    unsigned long *used;            /* bitmap of MiBs below @end, or NULL */
    uint64_t used_bits;
    unsigned long *kept;            /* MiBs kept by one block, or NULL */
    uint64_t kept_bits;
    uint64_t hint;                  /* MiB: there's none for a block before */
    GArray *freed;                  /* VHDXFreed: not yet committed */
    GArray *committing;             /* VHDXFreed: in the commit under way */
    GArray *committed;              /* VHDXFreed: committed, maybe still read */
    guint taken;                    /* of @committed: in the map by now */
    unsigned long *punch;           /* bitmap of free MiBs to be punched */
    uint64_t punch_bits;
    uint64_t punch_from;            /* MiB: there is none before */
    uint64_t tail;                  /* bytes: what is free behind is punched */
} VHDXSpace;

/* -- Log: ring.c -- */

typedef struct VHDXLogSpan {
    uint64_t sequence;
    uint32_t offset;                /* bytes from the start of the log */
    uint32_t length;                /* bytes */
    uint32_t tail;                  /* as the entry has it */
} VHDXLogSpan;

typedef struct VHDXLog {
    bool open;                      /* both headers name this log */
    VHDXGuid guid;
    uint64_t sequence;              /* of the newest entry */
    uint64_t stable;                /* ... and of the newest known stable */
    uint64_t given_up;              /* ... of the last whose write has failed */
    uint32_t head;                  /* where the next entry goes, bytes */
    uint32_t filled;                /* bytes from the start that have space */
    uint32_t used;                  /* bytes that may not be overwritten */
    GQueue *spans;                  /* entries in those bytes, oldest first */
    uint64_t applied;               /* pages up to this entry are in place */
    uint64_t safe;                  /* ... and stable there */
    uint64_t stable_size;           /* length of the file known stable, bytes */
} VHDXLog;

/* -- Requests: io.c -- */

/*
 * A payload block that is being given its place.  Whoever writes to the block
 * while this lasts shares it.  The first write that completes publishes it,
 * that is, sets the BAT entry.
 */
typedef struct VHDXAlloc {
    uint64_t block;
    uint64_t offset;                /* bytes from the start of the file */
    unsigned refs;
    bool ready;                     /* what is not written reads as zeros */
    bool preparing;                 /* someone is making it so */
    bool kept;                      /* the place is the one it had before */
    bool barrier;                   /* data must be stable before the entry */
    bool touched;                   /* a write to it has been tried */
    bool published;
    bool detached;                  /* freed again: no longer in the table */
} VHDXAlloc;

/* A request that uses file offsets it has got from the BAT. */
typedef struct VHDXRequest {
    uint64_t ticket;
    QTAILQ_ENTRY(VHDXRequest) next;
} VHDXRequest;

typedef struct BDRVVHDXState {
    /* What is known of the image: vhdx_load_anew() replaces all of it. */

    /* Fixed once the image is open, or changed with requests frozen */
    VHDXParams params;
    VHDXGeometry geo;
    VHDXRegion bat;
    VHDXRegion metadata;
    VHDXRegion *regions;            /* all of them, @region_count */
    uint32_t region_count;
    uint32_t disk_size_item;        /* its offset in the metadata region */
    bool has_locator;               /* there is a Parent Locator */
    char *creator;
    VHDXReplay *replay;             /* NULL: the log was clean at open */

    /* Changed under commit_lock */
    VHDXHeader header;              /* the current one */
    int header_copy;                /* where it is: 0 or 1 */
    bool file_guid_new;             /* FileWriteGuid is this open's */
    bool data_guid_new;             /* DataWriteGuid is this open's */
    bool replay_done;               /* the log found at open is in place */
    bool mend_header[2];            /* this copy is damaged */
    bool mend_region_table[2];      /* this copy is damaged */
    VHDXLog log;

    /* Changed under lock */
    bool writable;                  /* begin_write has nothing left to do */
    bool broken;                    /* metadata can't be written any more */
    bool reported;                  /* a bad BAT entry was reported */
    bool keep_tail;                 /* a check decides what becomes of it */
    VHDXSpace space;
    bool barrier;                   /* flush data before the next commit */
    bool relieving;                 /* a commit makes room in the cache */
    struct {} end_image;

    /* What requests use meanwhile; changed under lock */
    VHDXCache cache;
    GHashTable *allocs;             /* VHDXAlloc by block */
    CoQueue alloc_queue;            /* waits for VHDXAlloc.preparing to end */
    CoQueue request_queue;          /* waits for requests to end */
    bool frozen;                    /* requests wait */
    uint64_t next_ticket;
    QTAILQ_HEAD(, VHDXRequest) requests;    /* oldest first */
    uint64_t write_gen;             /* counts completed changes */
    uint64_t flushed_gen;           /* those before it are stable */
    bool no_zeroes;                 /* a flush has failed: trust no zeros */
    uint64_t cache_size;            /* bytes; fixed while requests run */
    bool safe_discard;              /* in the file it leaves data or zeros */

    QemuMutex lock;
    CoMutex commit_lock;
    CoMutex grow_lock;              /* space.size, and making space.used */
} BDRVVHDXState;

/* -- header.c, section 2.2.2 -- */

/*
 * Read both headers into @s->header.  Called by open.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_header_load(BlockDriverState *bs, Error **errp);

/*
 * Write @header as the new current header, to one copy after the other with a
 * flush after each; @copies is 1 where a single copy is wanted for now.  The
 * sequence number is set here.  commit_lock is held.  Returns 0 or -errno of
 * the write or flush that failed; the latter latches.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_header_update(BlockDriverState *bs, const VHDXHeader *header, int copies);

/*
 * Look whether the current header in the file is still the one that this open
 * has read or written, as any other writer would have changed both copies.
 * commit_lock is held.  Returns 0, -EIO having latched if not, or -errno of
 * reading.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_header_verify(BlockDriverState *bs);

/* -- metadata.c, sections 2.2.3 and 2.6 -- */

/*
 * Read region tables and metadata items: fills @s->bat, @s->metadata,
 * @s->params, @s->geo.  The log has been replayed to memory, and @s->space
 * knows the file's length.  Called by open.
 * Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_metadata_load(BlockDriverState *bs, Error **errp);

/*
 * Put the good copy of the region table over the damaged one, by way of
 * dirty pages for the next commit.  commit_lock is held.  Returns 0 or -errno
 * of reading the good copy.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_region_table_mend(BlockDriverState *bs);

/* -- replay-index.c -- */

VHDXReplayIndex *vhdx_replay_index_new(void);
void vhdx_replay_index_free(VHDXReplayIndex *index);

/*
 * Put @range into the index, over what is there.  Returns 0, or -E2BIG when the
 * index has become larger than it may.
 */
int vhdx_replay_index_add(VHDXReplayIndex *index, VHDXReplayRange range);

/*
 * Find the first range that ends behind file offset @offset, in bytes.  Returns
 * false where there is none.
 */
bool vhdx_replay_index_find(const VHDXReplayIndex *index, uint64_t offset,
                            VHDXReplayRange *range);

/* -- replay.c, section 2.3 -- */

/*
 * Ask the nodes below for the file's length, which another process may have
 * changed, and let reads know it.  Returns it in bytes, to the byte where the
 * protocol tells, or -errno.
 */
int64_t coroutine_fn GRAPH_RDLOCK vhdx_file_length(BlockDriverState *bs);

/*
 * Find the active sequence of the log that @s->header names and make
 * @s->replay from it; nothing is written.  Called by open.  Returns 0,
 * -EINVAL where no sequence counts or the file was cut, or -errno of reading.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_replay_load(BlockDriverState *bs, Error **errp);

/*
 * Write what @s->replay holds to the file and make the file as long as the log
 * says; no flush.  commit_lock is held.  Can be cut off and done again.
 * Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_replay_apply(BlockDriverState *bs);

/*
 * Read @bytes bytes at file offset @offset as they are after the replay.
 * Without one this is a plain read.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_replay_read(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                 void *buf);

/* The same for a request's payload: into @qiov from @qiov_offset on. */
int coroutine_fn GRAPH_RDLOCK
vhdx_replay_readv(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                  QEMUIOVector *qiov, size_t qiov_offset);

/*
 * Whether the log held changes at open that are not yet in place; lock is not
 * needed.
 */
static inline bool vhdx_replay_active(BDRVVHDXState *s)
{
    return s->replay && !qatomic_read(&s->replay_done);
}

/*
 * Whether the not yet applied replay changes any of @bytes bytes at file
 * offset @offset; lock is not needed.
 */
bool vhdx_replay_covers(BDRVVHDXState *s, uint64_t offset, uint64_t bytes);

void vhdx_replay_free(VHDXReplay *replay);

/* -- cache.c -- */

void vhdx_cache_init(BDRVVHDXState *s);
void vhdx_cache_free(BDRVVHDXState *s);

/*
 * Let the cache take no more than @s->cache_size from now on.  If its memory is
 * more than that, drop clean pages and give it back, as far as pages with
 * changes let it.  lock is held.
 */
void vhdx_cache_limit(BDRVVHDXState *s);

/*
 * Get the page at file offset @offset.  lock is held; it is dropped while the
 * page is read in, so what was known before may have changed.  @page is good
 * until lock is dropped the next time.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_cache_get(BlockDriverState *bs, uint64_t offset, VHDXPage **page);

/* The page at @offset if it is in memory, else NULL.  lock is held. */
VHDXPage *vhdx_cache_peek(BDRVVHDXState *s, uint64_t offset);

/*
 * The content of @page for the caller to change: it counts as dirty now.  The
 * log is open.  lock is held, until the change is complete.
 */
uint8_t *vhdx_cache_change(BDRVVHDXState *s, VHDXPage *page);

/*
 * Take a dirty page into the commit under way, or NULL if there is none: what
 * it holds now stays as @committing until vhdx_cache_commit_end(), which makes
 * it @logged if it is @stable, and the page dirty again if not.  commit_lock
 * and lock are held by both.
 */
VHDXPage *vhdx_cache_commit(BDRVVHDXState *s);
void vhdx_cache_commit_end(BDRVVHDXState *s, VHDXPage *page, bool stable);

/*
 * Replace @bytes bytes of metadata at file offset @offset by @buf, in pages
 * that get dirty together.  No lock is held, or commit_lock; nobody else
 * changes these pages.  Returns 0 or -errno of reading what surrounds it.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_cache_update(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                  const void *buf);

/*
 * Forget the pages in @bytes bytes at file offset @offset, none of which has a
 * change under way.  lock is held.
 */
void vhdx_cache_drop(BDRVVHDXState *s, uint64_t offset, uint64_t bytes);

/* Compare two VHDXPage * by offset, as g_ptr_array_sort() wants it. */
int vhdx_page_compare(const void *a, const void *b);

/*
 * Note that @page->logged is in place.  It is kept until a flush tells that it
 * is stable there, or that it may not be: then it is to be put in place again.
 * commit_lock and lock are held.
 */
void vhdx_cache_placed(BDRVVHDXState *s, VHDXPage *page);
void vhdx_cache_placed_end(BDRVVHDXState *s, bool stable);

/* -- bat.c, section 2.5 -- */

/*
 * Raise QEMU's event for an image that is not as it should be, but can be read:
 * @message tells how.  Any lock may be held.
 */
void GRAPH_RDLOCK vhdx_corrupted_event(BlockDriverState *bs,
                                       const char *message);

/*
 * Get the BAT entry of payload block @block, judged: UNMAPPED_DRAFT comes back
 * as UNMAPPED, offsets that mean nothing as 0.  UNMAPPED and UNDEFINED may keep
 * one, which may be anything: see vhdx_space_take_kept().  lock is held; see
 * vhdx_cache_get().  Returns 0, -EIO with a message for an entry that can't be
 * right, which comes back as it is, or -errno of reading, with an entry of 0.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_bat_get(BlockDriverState *bs, uint64_t block, uint64_t *entry);

/*
 * The same for a run of blocks that are as @block is, one after the other in
 * the file if they are present; @count is their number, from 1 to @most, and
 * may be less than it could be.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_bat_get_run(BlockDriverState *bs, uint64_t block, uint64_t most,
                 uint64_t *entry, uint64_t *count);

/*
 * How many bytes of payload block @block can be read though vhdx_bat_get() has
 * returned -EIO and @entry for it: its beginning, where the file was cut off
 * within the block.  0 if none.  lock is held.
 */
uint64_t vhdx_bat_get_rest(BDRVVHDXState *s, uint64_t block, uint64_t entry);

/*
 * How many bytes longer the file would have to be for all that its blocks
 * need.  Goes through all of the BAT.  No lock is held.  Returns 0 if it is
 * long enough, or -errno of reading.
 */
int64_t coroutine_fn GRAPH_RDLOCK vhdx_bat_missing(BlockDriverState *bs);

/* The page of @block's BAT entry, or NULL if not in memory.  lock is held. */
VHDXPage *vhdx_bat_peek(BDRVVHDXState *s, uint64_t block);

/*
 * PARTIALLY_PRESENT is for images with a parent.  In one without any trace of
 * one, no Parent Locator and no place in the entry of the chunk's sector
 * bitmap, it is read as FULLY_PRESENT, as Windows does.  Returns raw entry @raw
 * with index @index as it is read in this respect; as it is where the other
 * entry can't be read.  No lock is held.
 */
uint64_t coroutine_fn GRAPH_RDLOCK
vhdx_bat_entry_resolve(BlockDriverState *bs, uint64_t index, uint64_t raw);

/*
 * Set the BAT entry of payload block @block.  lock is held, and has been since
 * vhdx_bat_get() was called for the block, so that its page is in memory.
 */
void vhdx_bat_set(BDRVVHDXState *s, uint64_t block, uint64_t entry);

/*
 * Whether the file has all of payload block @block at @offset, of which the
 * last one may end where the disk does.
 */
static inline bool vhdx_bat_in_file(BDRVVHDXState *s, uint64_t block,
                                    uint64_t offset)
{
    return offset <= s->space.size &&
           vhdx_block_bytes(&s->geo, block) <= s->space.size - offset;
}

/*
 * Whether raw entry @entry names a place in the file as a present block's does.
 * Behind the last entry, or where a sector bitmap's stands, it may be one all
 * the same if the disk's size, or what else tells them apart, is damaged.
 */
static inline bool vhdx_bat_may_be_block(BDRVVHDXState *s, uint64_t entry)
{
    return vhdx_bat_state(entry) >= VHDX_BLOCK_FULLY_PRESENT &&
           vhdx_bat_offset(entry) && vhdx_bat_offset(entry) < s->space.size;
}

/*
 * Judge BAT entry @index of raw value @raw, which is about to be used, and give
 * its meaning as vhdx_bat_get() does.  Returns 0, or -EIO; says what is wrong,
 * for the first time in an open.  lock is held.
 */
int GRAPH_RDLOCK vhdx_bat_entry_use(BlockDriverState *bs, uint64_t index,
                                    uint64_t raw, uint64_t *entry);

/*
 * Judge BAT entry @index of raw value @entry.  Returns 0, or -EINVAL with
 * @errp set.  lock is held.
 */
int vhdx_bat_entry_check(BDRVVHDXState *s, uint64_t index, uint64_t entry,
                         Error **errp);

/*
 * Gets @count raw entries of the BAT from @index on, in a coroutine that holds
 * the graph lock.
 */
typedef int coroutine_fn
VHDXBatFunc(BlockDriverState *bs, uint64_t index, const uint64_t *entries,
            uint64_t count, void *opaque);

/*
 * Go through entries @first to @end - 1 of the BAT region: call @func for every
 * run that is not a hole in the file, as it is now with all changes.  Ends
 * early where @func returns non-zero, and returns that; otherwise 0 or -errno
 * of reading.  No lock is held, or commit_lock.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_bat_walk(BlockDriverState *bs, uint64_t first, uint64_t end,
              VHDXBatFunc *func, void *opaque);

/* -- space.c -- */

/* Start with a file of @size bytes.  Called by open. */
void vhdx_space_init(BDRVVHDXState *s, uint64_t size);
void vhdx_space_free(BDRVVHDXState *s);

/*
 * Keep off all of the last block, of which the file may have no more than what
 * the disk needs.  commit_lock is held, before any allocation.
 */
void coroutine_fn GRAPH_RDLOCK vhdx_space_begin(BlockDriverState *bs);

/*
 * Set @s->space's size to what the node has now; the block layer alone would
 * tell what it knew before.  What is new to us is not known to be zero.  No
 * request takes space meanwhile, or grow_lock is held.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_space_measure(BlockDriverState *bs);

/*
 * Find a place of @bytes bytes, a multiple of 1 MiB.  @zero tells whether it
 * reads as zeros and will still do after a power cut.  lock is held; it may be
 * dropped before the place is found, but not after: a place that is neither in
 * @s->allocs nor in the BAT may be found again by a scan.  Returns the offset
 * in bytes, or -errno: -ENOSPC where file and node are full, -EIO where the BAT
 * has an entry that can't be right.
 */
int64_t coroutine_fn GRAPH_RDLOCK
vhdx_space_alloc(BlockDriverState *bs, uint64_t bytes, bool *zero);

/*
 * Take the place at @offset for the block whose entry keeps it without using
 * it, if it is in the file and nothing else's; what it holds may be old.  lock
 * is held, and dropped if the space has not been scanned.  Returns 1 if it is
 * taken, 0 if it can't be had, or -errno as vhdx_space_alloc().
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_space_take_kept(BlockDriverState *bs, uint64_t block, uint64_t offset);

/* The place at @offset is to be kept again: no entry uses it.  lock is held. */
void vhdx_space_keep(BDRVVHDXState *s, uint64_t offset);

/*
 * Take the first place of @bytes bytes, a multiple of 1 MiB, that the map shows
 * as free and that ends at file offset @limit or before; it is not known to
 * read as zeros.  lock is held, and the space has been scanned.  Returns the
 * offset in bytes, or 0 if there is none.
 */
uint64_t vhdx_space_take_below(BDRVVHDXState *s, uint64_t bytes,
                               uint64_t limit);

/*
 * How many bytes the map shows as used from file offset @from to @to, multiples
 * of 1 MiB.  lock is held, and the space has been scanned.
 */
uint64_t vhdx_space_used(BDRVVHDXState *s, uint64_t from, uint64_t to);

/*
 * Make the file at least @end bytes long.  No lock is held, or commit_lock.
 * Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_space_cover(BlockDriverState *bs, uint64_t end);

/*
 * Know what is free, and have @bytes more of it if the node can grow, by
 * @prealloc, so that there is no scan while that is taken.  No lock is held, or
 * commit_lock.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_space_reserve(BlockDriverState *bs, uint64_t bytes, PreallocMode prealloc);

/*
 * Give back a place of @bytes bytes, of vhdx_space_alloc(), that nothing in the
 * file has ever named.  @touched tells whether it may have been written to: the
 * host then gets it back when all requests of now have ended.  lock is held.
 */
void vhdx_space_abandon(BDRVVHDXState *s, uint64_t offset, uint64_t bytes,
                        bool touched);

/*
 * Note that the object of @bytes bytes at @offset is no longer named: its
 * space is free once that is committed and all requests of now have ended.
 * For an object that the log may still write to, vhdx_log_checkpoint() comes
 * first.  lock is held.
 */
void vhdx_space_release(BDRVVHDXState *s, uint64_t offset, uint64_t bytes);

/*
 * A commit begins that tells of what was released until now; it has ended, and
 * is @stable or not.  commit_lock and lock are held by both.
 */
void vhdx_space_commit_begin(BDRVVHDXState *s);
void vhdx_space_commit_end(BDRVVHDXState *s, bool stable);

/* Whether space waits for a commit or for requests.  lock is held. */
bool vhdx_space_pending(BDRVVHDXState *s);

/*
 * Whether vhdx_space_reclaim() would find something; whether there is nothing
 * for it but what waits for requests.  lock is held.
 */
bool vhdx_space_reclaimable(BDRVVHDXState *s);
bool vhdx_space_waits(BDRVVHDXState *s);

/*
 * Open for reuse what is committed and no longer in use by a request; it is to
 * be punched.  No lock is held, or commit_lock.  Returns whether there is
 * something for vhdx_space_cut_begin().
 */
bool coroutine_fn GRAPH_RDLOCK vhdx_space_reclaim(BlockDriverState *bs);

/*
 * Make @bytes bytes at file offset @offset read as zeros, by requests with
 * @flags, but for holes, which do so already.  No lock is held, or one of the
 * CoMutexes.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_space_zero(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                BdrvRequestFlags flags);

/*
 * Give the host back what is free and has not been punched yet, up to @most
 * places.  No lock is held, or commit_lock.
 */
void coroutine_fn GRAPH_RDLOCK
vhdx_space_punch(BlockDriverState *bs, unsigned most);

/*
 * Where much is free at the end of the file, let the file end where the last
 * object does, in memory: @s->space's size and end are the smaller ones now,
 * and @size is set to the old size in bytes.  commit_lock and grow_lock are
 * held, and the latter until the cut has been undone or is stable.  Returns
 * false, with nothing changed, where there is too little to be cut.
 */
bool vhdx_space_cut_begin(BDRVVHDXState *s, uint64_t *size);

/* The file has not been cut and still is @size bytes long. */
void vhdx_space_cut_undo(BDRVVHDXState *s, uint64_t size);

/*
 * Cut the file, of @size bytes, to @end bytes; there is no log, or a stable
 * entry says that it has no more: LastFileOffset and FlushedFileOffset are not
 * above @end.  No flush.  Where it can't be cut that is told, once in an open,
 * and nothing else comes of it.
 */
void coroutine_fn GRAPH_RDLOCK
vhdx_space_cut(BlockDriverState *bs, uint64_t end, uint64_t size);

/*
 * A flush has failed, so that changes of the file's length may be gone: set it
 * once more, for the next flush.  commit_lock and grow_lock are held.  Returns
 * 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_space_assure(BlockDriverState *bs);

/*
 * Make the used map from the BAT, so that space that nothing refers to is
 * found.  grow_lock or commit_lock is held, the latter before any allocation.
 * Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_space_scan(BlockDriverState *bs);

/*
 * Whether the blocks seem to be longer than BlockSize says, an item without
 * checksum.  No lock is held, or one of the CoMutexes.  Returns 1 if so, 0 if
 * not, or -errno.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_space_doubt(BlockDriverState *bs);

/*
 * Cut off what lies behind the last object, but not what a fixed image is to
 * keep.  commit_lock is held, no log is open and no request under way.  Errors
 * are told as by vhdx_space_cut().
 */
void coroutine_fn GRAPH_RDLOCK vhdx_space_trim(BlockDriverState *bs);

/* -- ring.c, section 2.3; commit_lock is held by all of it -- */

/*
 * Whether the error @ret means that the storage is full: it fails a request
 * alone, which may be tried again.  EFBIG is a limit of the file's size, of the
 * process or of the file system.
 */
static inline bool vhdx_no_space(int ret)
{
    return ret == -ENOSPC || ret == -EDQUOT || ret == -EFBIG;
}

/*
 * Stop all writing until the image is opened again, and tell @why: what is on
 * the disk is not known any more.  Any lock may be held.
 */
void GRAPH_RDLOCK vhdx_ring_latch(BlockDriverState *bs, const char *why);

/*
 * Flush the file, and note what is stable thereby.  Returns 0 or -errno; with
 * the latter nothing is known of what has been written since the last flush,
 * and nothing that is flushed later makes that good.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_ring_flush_data(BlockDriverState *bs);

/* As vhdx_ring_flush_data(), where metadata is at stake: an error latches. */
int coroutine_fn GRAPH_RDLOCK vhdx_ring_flush(BlockDriverState *bs);

/*
 * Take back entries that are not known to be stable: when this has been flushed
 * the log ends before them, for certain, and the next one goes to their place.
 * Returns 0, or -errno: then they count as before, though some may be gone.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_ring_rewind(BlockDriverState *bs);

/* Bytes that the next entry may take. */
uint32_t vhdx_ring_room(BDRVVHDXState *s);

/*
 * Write one entry at the head of the ring, where there is room for it: @count
 * pages with the file offsets @offsets and the contents @data.  Returns 0, or
 * -errno with the head where it was.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_ring_write(BlockDriverState *bs, uint32_t count, const uint64_t *offsets,
                uint8_t *const *data);

/* The newest entry is stable: what lies before its tail may be reused. */
void vhdx_ring_release(BDRVVHDXState *s);

/*
 * Write all pages in place whose new content is stable in the log.  Returns 0
 * or -errno; what is not in place then is in the log still.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_ring_apply(BlockDriverState *bs);

/*
 * Empty the ring, all entries of which are stable, after
 * vhdx_header_verify().  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_ring_checkpoint(BlockDriverState *bs);

/* -- log.c, section 2.3 -- */

/*
 * Make stable what the caller has written to the file itself.  No lock is held.
 * Returns 0 or -errno, having latched.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_log_flush(BlockDriverState *bs);

/*
 * Make sure that the image may be changed: apply the replay, give the file its
 * new FileWriteGuid, and with @data a new DataWriteGuid, and open the log.
 * Cheap after the first time.  No lock is held.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_log_begin(BlockDriverState *bs, bool data);

/*
 * Make stable all changes that were complete when the call began.  No lock is
 * held.  Returns 0 or -errno; -ENOSPC may be tried again.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_log_commit(BlockDriverState *bs);

/*
 * Where a failed flush has stopped all writing, go on, if that is possible now.
 * That a flush works again does not tell that what was written before is on the
 * disk: the storage may have dropped it.  So nothing is believed that was
 * written since the last flush that worked, and all of it is written again from
 * memory.  Changes that are not committed yet have been kept.  Guest data is in
 * nobody's memory; the guest was told.  But where metadata could name old data
 * that way, writing stays stopped.  No lock is held, no frozen request waits
 * for the caller.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_log_resume(BlockDriverState *bs);

/*
 * Whether changed pages take half of the cache, or the list of what was freed
 * is long, so that the caller has to call vhdx_log_relieve().  While one
 * request does so this is false for others, unless changed pages fill all of
 * the cache.  lock is held.
 */
bool vhdx_log_relief_due(BDRVVHDXState *s);

/*
 * Commit because that is due.  No lock is held.  Returns 0 or -errno, as
 * vhdx_log_commit().
 */
int coroutine_fn GRAPH_RDLOCK vhdx_log_relieve(BlockDriverState *bs);

/*
 * Replace @bytes bytes of metadata at file offset @offset by @buf, as
 * vhdx_cache_update() does, and commit if that is due.  The log is open, no
 * lock is held.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_log_put(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
             const void *buf);

/*
 * Put everything in place and close the log: LogGuid zero in both headers, the
 * file cut to its last object.  Requests have ended.  No lock is held.
 * Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_log_close(BlockDriverState *bs);

/*
 * Commit, and put everything in place so that no replay writes there again:
 * the log's tail is past all of it, and stable.  No lock is held.  Returns 0
 * or -errno.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_log_checkpoint(BlockDriverState *bs);

/* Forget the log without touching the file. */
void vhdx_log_free(BDRVVHDXState *s);

/* -- io.c -- */

void vhdx_io_init(BDRVVHDXState *s);
void vhdx_io_free(BDRVVHDXState *s);

/*
 * Wait until all requests have ended and hold off new ones, which wait, until
 * vhdx_io_thaw().  Flushes go on.  No lock is held.
 */
void coroutine_fn vhdx_io_freeze(BDRVVHDXState *s);
void coroutine_fn vhdx_io_thaw(BDRVVHDXState *s);

/* The oldest request's ticket, or the next one's.  lock is held. */
uint64_t vhdx_oldest_ticket(BDRVVHDXState *s);

int coroutine_fn GRAPH_RDLOCK
vhdx_co_preadv_part(BlockDriverState *bs, int64_t offset, int64_t bytes,
                    QEMUIOVector *qiov, size_t qiov_offset,
                    BdrvRequestFlags flags);
int coroutine_fn GRAPH_RDLOCK
vhdx_co_pwritev_part(BlockDriverState *bs, int64_t offset, int64_t bytes,
                     QEMUIOVector *qiov, size_t qiov_offset,
                     BdrvRequestFlags flags);
int coroutine_fn GRAPH_RDLOCK
vhdx_co_pwrite_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                      BdrvRequestFlags flags);
int coroutine_fn GRAPH_RDLOCK
vhdx_co_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes);
int coroutine_fn GRAPH_RDLOCK
vhdx_co_block_status(BlockDriverState *bs, VHDXStatusMode mode, int64_t offset,
                     int64_t bytes, int64_t *pnum, int64_t *map,
                     BlockDriverState **file);
int coroutine_fn GRAPH_RDLOCK vhdx_co_flush(BlockDriverState *bs);

/* -- resize.c -- */

/*
 * Move @region, one of @s->regions, to @length bytes at file offset @offset, a
 * place that is taken for it, and which reads as zeros if @zero; the old place
 * is released.  What the new length adds reads as zeros.  Where @offset is the
 * old one @region stays there and gets shorter: what it loses is released.
 * Requests are frozen, no lock is held.  Returns 0 or -errno; then nothing has
 * changed, and the new place has been given back.  Sections 2.2.3 and 2.4.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_region_move(BlockDriverState *bs, VHDXRegion *region, uint64_t offset,
                 uint32_t length, bool zero);

/*
 * Clear what the BAT's region holds from entry @first on, all of it behind the
 * last block, and say how many blocks are given up by that.  Their space is for
 * a scan to find.  The log is open, requests are frozen, no lock is held.
 * Returns their number or -errno.
 */
int64_t coroutine_fn GRAPH_RDLOCK
vhdx_bat_clear_rest(BlockDriverState *bs, uint64_t first);

int coroutine_fn GRAPH_RDLOCK
vhdx_co_truncate(BlockDriverState *bs, int64_t offset, bool exact,
                 PreallocMode prealloc, BdrvRequestFlags flags, Error **errp);

/* -- move.c -- */

typedef struct VHDXMove {
    uint64_t block;
    uint64_t from;                  /* where it is, bytes */
    uint64_t to;                    /* where it goes, bytes */
    uint64_t bytes;                 /* those that belong to the disk */
    bool data;                      /* there are not only zeros in it */
} VHDXMove;

/* Blocks that are looked at, or moved, together. */
typedef struct VHDXBatch {
    unsigned count;
    VHDXMove moves[64];
} VHDXBatch;

/*
 * Add the payload block of BAT entry @index, present at @from, that may go to
 * @to.  Returns whether the batch is full.
 */
bool vhdx_batch_add(BDRVVHDXState *s, VHDXBatch *batch, uint64_t index,
                    uint64_t from, uint64_t to);

/*
 * Give blocks of @batch in which there are only zeros the state ZERO, and add
 * their number to @dropped.  That is stable, and their space free, with the
 * next commit.  Requests are frozen, no lock is held.  Returns 0 or -errno; the
 * image is right in either case.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_batch_drop_zeroes(BlockDriverState *bs, VHDXBatch *batch,
                       uint64_t *dropped);

/*
 * Move the blocks of @batch, each to a place that is taken for it, and commit
 * that.  Requests are frozen, no lock is held.  Returns 0 or -errno; what has
 * not moved then is where it was, and its new place is free.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_batch_move(BlockDriverState *bs, VHDXBatch *batch);

/* -- compact.c -- */

/*
 * Make the file of a dynamic image shorter, by moving blocks into free space,
 * and first, with @zeroes, by giving up blocks full of zeros.  @status_cb is
 * called with @cb_opaque as it goes on.  The disk's content does not change.
 * Requests wait meanwhile.  No lock is held.  Returns 0, or -errno with @errp
 * set: then the image is whole, and it may be tried again.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_co_compact(BlockDriverState *bs, bool zeroes,
                BlockDriverAmendStatusCB *status_cb, void *cb_opaque,
                Error **errp);

/* -- check.c, check-tables.c, check-bat.c -- */

/* Findings that are told in words; further ones are only counted. */
#define VHDX_CHECK_REPORTS  100

/* A check under way. */
typedef struct VHDXCheck {
    BdrvCheckResult *result;
    BdrvCheckMode fix;
    bool notes;                     /* tell of what is no error, too */
    bool replay;                    /* the log held changes at open */
    bool leak;                      /* ... so that a tail counts as leaked */
    bool doubt;                     /* blocks may be longer than is said */
    unsigned reports;               /* findings told so far */
    uint64_t end;                   /* of the last object, bytes */
    uint64_t used;                  /* bytes that something refers to */
    uint64_t lost;                  /* blocks named behind the last one */
    uint64_t given_up;              /* ... and no longer, as they were zeros */
} VHDXCheck;

/* Tell of something wrong that is left as it is, and count it. */
void G_GNUC_PRINTF(2, 3)
vhdx_check_error(VHDXCheck *check, const char *format, ...);

/* Tell of something that is not wrong, if a person asked. */
void G_GNUC_PRINTF(2, 3)
vhdx_check_note(VHDXCheck *check, const char *format, ...);

/*
 * Something is found that can be mended.  Returns 1 if that is to be done now:
 * the log is open then, and it counts as fixed.  Returns 0 if not, or -errno of
 * opening the log.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_check_begin_mend(BlockDriverState *bs, VHDXCheck *check);

/*
 * Tell of something wrong that can be mended without guessing, and count it.
 * Returns 1 if it is to be mended now, by vhdx_log_put(): the log is open
 * then.  Returns 0 if not, or -errno of opening the log.
 */
int coroutine_fn GRAPH_RDLOCK G_GNUC_PRINTF(3, 4)
vhdx_check_mend(BlockDriverState *bs, VHDXCheck *check, const char *format,
                ...);

/* The same for something that is no error, if a person asked. */
int coroutine_fn GRAPH_RDLOCK G_GNUC_PRINTF(3, 4)
vhdx_check_odd(BlockDriverState *bs, VHDXCheck *check, const char *format,
               ...);

/*
 * Check headers and region tables, of which each has two copies; the metadata
 * table and items; all BAT entries, and what they name in the file, which
 * fills in @check->end and @check->used.  In this order, the first one before
 * anything is mended.  Return 0 or -errno; findings are no error.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_check_copies(BlockDriverState *bs, VHDXCheck *check);
int coroutine_fn GRAPH_RDLOCK
vhdx_check_metadata(BlockDriverState *bs, VHDXCheck *check);
int coroutine_fn GRAPH_RDLOCK
vhdx_check_bat(BlockDriverState *bs, VHDXCheck *check);

int coroutine_fn GRAPH_RDLOCK
vhdx_co_check(BlockDriverState *bs, BdrvCheckResult *result,
              BdrvCheckMode fix);

/* -- create.c -- */

/*
 * What create is asked for, sizes in bytes.  Zero in @block_size lets the
 * driver choose.
 */
typedef struct VHDXCreateOptions {
    uint64_t size;
    uint64_t log_size;
    uint64_t block_size;
    uint64_t logical_sector;
    uint64_t physical_sector;
    bool fixed;
    bool block_state_zero;
    PreallocMode prealloc;
    VHDXGuid disk_id;
} VHDXCreateOptions;

/* Where everything of a new image goes, bytes from the start of the file. */
typedef struct VHDXLayout {
    VHDXParams params;
    VHDXGeometry geo;
    uint64_t log_offset;
    uint32_t log_length;
    uint64_t bat_offset;
    uint32_t bat_length;
    uint64_t metadata_offset;
    uint32_t metadata_length;
    uint64_t first_block;           /* where payload blocks begin */
    uint64_t file_size;             /* when just created */
    uint64_t full_size;             /* with every payload block present */
    VHDXBlockState state;           /* of every payload block */
} VHDXLayout;

/*
 * Work out the layout of a new image.  A pure function.  Returns 0, or -EINVAL
 * with the option and its value in @errp.
 */
int vhdx_layout_plan(const VHDXCreateOptions *opts, VHDXLayout *layout,
                     Error **errp);

extern QemuOptsList vhdx_create_opts;

int coroutine_fn GRAPH_UNLOCKED
vhdx_co_create(BlockdevCreateOptions *opts, Error **errp);
int coroutine_fn GRAPH_UNLOCKED
vhdx_co_create_opts(BlockDriver *drv, const char *filename, QemuOpts *opts,
                    Error **errp);
BlockMeasureInfo *vhdx_measure(QemuOpts *opts, BlockDriverState *in_bs,
                               Error **errp);

#endif
