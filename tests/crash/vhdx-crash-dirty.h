/*
 * VHDX crash test: dirty bitmaps
 *
 * dirty-reader  what an image has of them, read without the driver
 * dirty         what they must have
 * dirty-check   whether they do
 * dirty-guest   the commands, and what stores bitmaps in use
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef TESTS_UNIT_VHDX_CRASH_DIRTY_H
#define TESTS_UNIT_VHDX_CRASH_DIRTY_H

#include "vhdx-crash.h"

/* -- vhdx-crash-dirty-reader.c -- */

/* One of the bitmaps of an image */
typedef struct CrashBitmap {
    char *name;
    unsigned granularity;           /* 2^that bytes are a granule */
    bool enabled;
    bool counts;
    /* If it counts: */
    uint64_t granules;
    uint64_t page_count;
    CrashPage **pages;              /* of bits; NULL: zeros */
} CrashBitmap;

typedef struct CrashDirty {
    unsigned refs;
    bool current;                   /* the head is of this content */
    GPtrArray *list;                /* CrashBitmap */
} CrashDirty;

/*
 * Read the bitmaps of an image that has been read but for these; @why is set
 * if something is not as it must be.
 */
CrashDirty *dirty_read(const CrashReader *r, char **why);
CrashDirty *dirty_ref(CrashDirty *dirty);
void dirty_unref(CrashDirty *dirty);

/* The bitmap with this name, or NULL */
CrashBitmap *dirty_find(const CrashDirty *dirty, const char *name);

/* Byte @index of the bits of @bitmap, which counts */
uint8_t bitmap_byte(const CrashBitmap *bitmap, uint64_t index);

/* -- vhdx-crash-dirty.c -- */

typedef enum CrashEventKind {
    EVENT_ADD,
    EVENT_CLEAR,
    EVENT_ENABLE,
    EVENT_JOB_DONE,
    EVENT_DISABLE,
    EVENT_MERGE,
    EVENT_REMOVE,
    EVENT_JOB,                      /* begins; what is new is apart then */
    EVENT_JOB_FAILED,
    EVENT_STORE,                    /* close, and the like */
    EVENT_CHANGE,                   /* of the image, by no request */
} CrashEventKind;

/* A command, or what is done to all bitmaps */
typedef struct CrashEvent {
    CrashEventKind kind;
    guint track;                    /* of which bitmap, if of one */
    guint source;                   /* what is merged into it */
    uint32_t start;                 /* stamps */
    uint32_t end;
    int ret;
} CrashEvent;

/* What is known of a persistent bitmap */
typedef struct CrashTrack {
    char *name;
    unsigned granularity;
    uint64_t granules;
    uint64_t bytes;                 /* of @must, and of @may */
    uint32_t added;                 /* stamps */
    uint32_t gone_start;            /* its removal, or CRASH_NEVER */
    uint32_t gone_end;
    bool bad;                       /* it was inconsistent at first */
    /* At the stamp that the model tells of: */
    bool enabled;
    bool stored;                    /* the image has its name */
    uint32_t changed;               /* stamp: a command has changed it */
    uint32_t since;                 /* ... so that it has less, or records */
    uint8_t *must;                  /* bits that it has */
    uint8_t *may;                   /* these, and what it may have */
    uint32_t job;                   /* stamp: one that uses it has begun */
    uint8_t *job_must;              /* what has been new since then, or NULL */
    uint8_t *job_may;
    uint32_t floor_at;              /* @since that @floor is of */
    uint32_t *floor;                /* start of each spot's sector's latest */
} CrashTrack;

typedef struct CrashTracks {
    uint64_t max_size;              /* bytes: so long the disk may get */
    GPtrArray *list;                /* CrashTrack, by the time of their birth */
    GArray *events;                 /* CrashEvent, by their end */
    GArray *order;                  /* what happened, step by step */
    guint done;                     /* of @order */
    uint32_t storing;               /* stamp: the latest store has begun */
    uint32_t stored;                /* ... has ended */
    bool quiet;                     /* ... and there was no change since */
    bool rough;                     /* there may be more bits than that */
    GHashTable *solid;              /* sectors that were not zeros */
    GHashTable *dropped;            /* ... and when they may have become so */
} CrashTracks;

/*
 * Bitmaps as @dirty has them when a run begins, of a disk of @size bytes that
 * gets no longer than @max_size
 */
CrashTracks *tracks_new(const CrashDirty *dirty, uint64_t size,
                        uint64_t max_size);
void tracks_free(CrashTracks *tracks);

/* A new bitmap is there from now on.  Returns its index. */
guint tracks_add(CrashTracks *tracks, const char *name, unsigned granularity,
                 uint64_t size, uint32_t now);

/* The index of the bitmap that has this name now */
guint tracks_find(const CrashTracks *tracks, const char *name);

void tracks_note(CrashTracks *tracks, CrashEvent event);

/* Note what is done to all bitmaps, if @tracks is not NULL. */
void tracks_note_all(CrashTracks *tracks, CrashEventKind kind, uint32_t start,
                     uint32_t end, int ret);

/* Go on to stamp @now; no request is noted any more. */
void tracks_advance(CrashModel *model, uint32_t now);

/*
 * When the first zeroes or discard began that may have dropped what was written
 * to @sector, or 0
 */
uint32_t tracks_dropped(const CrashTracks *tracks, uint64_t sector);

/* A stamp when bitmaps are stored, most often, or at a command, or @at */
uint32_t tracks_point(const CrashTracks *tracks, uint32_t at, CrashRng *rng);

/* -- vhdx-crash-dirty-check.c -- */

/*
 * Check what an image has of bitmaps, in which guests would see the writes
 * @seen.  Returns NULL or what is wrong.
 */
char *tracks_check(const CrashModel *model, const CrashDirty *dirty,
                   const uint32_t *seen);

/* Check that the driver has made the same of them as the reader. */
char *dirty_check_driver(BlockDriverState *bs, const CrashDirty *dirty);

/* -- vhdx-crash-dirty-guest.c -- */

/* An image in use, whose bitmaps commands are for */
typedef struct CrashInUse {
    BlockDriverState *bs;
    CrashTracks *tracks;            /* where they are noted */
    uint32_t *now;                  /* the latest stamp */
    uint64_t disk_size;             /* bytes */
} CrashInUse;

/*
 * Commands.  The new bitmap @name is persistent and records writes; who records
 * does not after dirty_toggle(), and the other way round.
 */
void dirty_add(const CrashInUse *u, const char *name, unsigned granularity,
               Error **errp);
void dirty_clear(const CrashInUse *u, BdrvDirtyBitmap *bitmap);
void dirty_toggle(const CrashInUse *u, BdrvDirtyBitmap *bitmap, Error **errp);
void dirty_merge(const CrashInUse *u, BdrvDirtyBitmap *to,
                 BdrvDirtyBitmap *from, Error **errp);
void dirty_remove(const CrashInUse *u, BdrvDirtyBitmap *bitmap, Error **errp);

/*
 * A job, as a backup is one, begins to use @bitmap.  When it has ended well
 * the bitmap has what is new since then, or else all that it had, and that.
 */
void dirty_job_begin(const CrashInUse *u, BdrvDirtyBitmap *bitmap);
void dirty_job_end(const CrashInUse *u, BdrvDirtyBitmap *bitmap, bool well);

/* Let the image in use have the first bitmaps of @g->w. */
void guests_bitmaps(Guests *g);

/* One command, while requests go on */
void guests_command(Guests *g);

/* Let bitmaps be stored in the middle of a session. */
void guests_store(Guests *g);

/*
 * Commands when no request is under way, as when a guest has stopped; with
 * @closing jobs end, too.
 */
void guests_stopped(Guests *g, bool closing);

/* Let an operation fail, of those that come next; where @w wants it. */
void guests_may_fail(Guests *g, unsigned percent);

/* Nothing fails any more: go on. */
void guests_mend(Guests *g);

#endif
