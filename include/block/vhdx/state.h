/*
 * VHDX: the open image
 *
 * block/vhdx/layers.txt has the order of the files: each calls only what stands
 * before it there.
 *
 * Locks.  Requests may come from several threads.
 *
 * @lock, a VHDXLock, guards everything in memory that a request looks at:
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
 * (but for log_offset and log_length, which change with requests frozen as well
 * and are read by them under none), whether the log is open, @logged of pages
 * and their number, the file's length and whether the node can grow, and
 * whether it is known what is free.
 *
 * lock.h has these locks as assertions: most functions that say what their
 * caller holds assert it.
 *
 * A page that is dirty, logged or being committed stays in memory, and so does
 * an allocation with a reference; other pointers to them end with lock.  What
 * a request has looked up in the BAT may be out of date as soon as lock is
 * dropped, but the request's ticket keeps the place it names from being used
 * for anything else.
 *
 * What may be changed, and whether the replay is in place, is read atomically
 * under no lock.
 *
 * Open, close, reopen, inactivation and check come with no request under way;
 * an activation comes with reads, and freezes them.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_STATE_H
#define BLOCK_VHDX_STATE_H

#include "qemu/coroutine.h"
#include "qemu/queue.h"
#include "qemu/thread.h"
#include "block/vhdx/compat.h"
#include "block/vhdx/format.h"
#include "block/vhdx/geometry.h"
#include "block/vhdx/locator.h"
#include "block/vhdx/tables.h"

/* Memory that metadata pages may take: the default, and what is allowed */
#define VHDX_CACHE_SIZE         (32 * MiB)
#define VHDX_CACHE_SIZE_MIN     (256 * KiB)
#define VHDX_CACHE_SIZE_MAX     TiB

/* Said of a protocol that can't do what falloc asks for. */
#define VHDX_NO_FALLOC \
    "has no preallocation mode 'falloc' ('full' writes zeros instead)"

/* The state of files that nobody else looks into */
typedef struct VHDXCache VHDXCache;             /* cache.c */
typedef struct VHDXChange VHDXChange;           /* change.c */
typedef struct VHDXCommit VHDXCommit;           /* commit-int.h */
typedef struct VHDXDirtyBitmaps VHDXDirtyBitmaps; /* dirty-load.h */
typedef struct VHDXFile VHDXFile;               /* file.c */
typedef struct VHDXLog VHDXLog;                 /* ring.c */
typedef struct VHDXParent VHDXParent;           /* parent-int.h */
typedef struct VHDXNewBitmaps VHDXNewBitmaps;   /* bitmap.c */
typedef struct VHDXReplay VHDXReplay;           /* replay-int.h */
typedef struct VHDXRequests VHDXRequests;       /* request.c */
typedef struct VHDXSpace VHDXSpace;             /* space-int.h */
typedef struct VHDXWatch VHDXWatch;             /* file.h */

/* A QemuMutex of which it is known who holds it: lock.h */
typedef struct VHDXLock {
    QemuMutex mutex;
    Coroutine *owner;               /* atomic */
} VHDXLock;

typedef struct BDRVVHDXState {
    /* What is known of the image: vhdx_open_load_anew() replaces all of it. */

    /* Fixed once the image is open, or changed with requests frozen */
    VHDXParams params;
    VHDXGeometry geo;
    VHDXRegion bat;
    VHDXRegion metadata;
    VHDXRegion *regions;            /* all of them, @region_count */
    uint32_t region_count;
    uint64_t objects_end;           /* only blocks lie behind it, bytes */
    uint32_t disk_size_item;        /* its offset in the metadata region */
    char *creator;
    VHDXReplay *replay;             /* NULL: the log was clean at open */
    uint32_t items_limit;           /* so far metadata items may go, bytes */
    VHDXDirtyBitmaps *dirty;        /* those in the file, or NULL */
    uint32_t dirty_unsure;          /* page of a head that may count, or 0 */

    /* Changed under commit_lock and lock */
    uint32_t items_end;             /* of metadata items, bytes */
    bool has_locator;               /* there is a Parent Locator */
    VHDXLocator *locator;           /* NULL: it can't be used ... */
    char *locator_error;            /* ... for this reason */

    /* Changed under commit_lock */
    VHDXHeader header;              /* the current one */
    int header_copy;                /* where it is: 0 or 1 */
    bool header_unsure;             /* atomic: the other one may be newer */
    bool mend_region_table[2];      /* this copy is damaged */
    bool refused;                   /* why it can't be changed was reported */
    bool doubt_told;                /* why writing can't be resumed, too */
    VHDXLog *log;

    /* Changed under lock */
    bool reported;                  /* a bad BAT entry was reported */
    bool keep_end;                  /* a check decides what is cut off */
    VHDXFile *file;
    VHDXSpace *space;
    VHDXNewBitmaps *new_bitmaps;    /* or NULL if none were made */
    bool relieving;                 /* a commit makes room in the cache */
    struct {} end_image;

    /* Changed under commit_lock */
    VHDXCommit *early;              /* vhdx_commit_early(), or NULL */

    /* What requests use meanwhile; changed under lock */
    VHDXChange *change;
    VHDXCache *cache;
    VHDXRequests *requests;
    VHDXParent *parent;
    bool linked;                    /* to it, atomic: vhdx_parent_linked() */
    QLIST_HEAD(, VHDXWatch) watches;        /* parts of the file: file.h */
    bool watched;                   /* there are some, atomic */
    bool compacting;                /* while it is in use */
    uint64_t cache_size;            /* bytes; fixed while requests run */
    bool safe_discard;              /* in the file it leaves data or zeros */
    bool file_shrinks;              /* it is known that it can; fixed */
    unsigned unflushed;             /* writes since the last flush */
    unsigned by_turns;              /* flushes in a row that followed one, */
    unsigned turns_needed;          /* ... up to so many, see commit.c */
    int64_t early_ns;               /* see vhdx_early_pays(); fixed */

    VHDXLock lock;
    CoMutex commit_lock;
    CoMutex grow_lock;
} BDRVVHDXState;

#endif
