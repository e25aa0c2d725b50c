/*
 * VHDX crash test: a simulated disk, power cuts, and what must hold then
 *
 * image     a file's content, sparse, with cheap copies
 * ops       what the driver did to the file, and power cuts in the midst of it
 * disk      the protocol node that records this
 * model     what the guest did, and what each sector may hold after a cut
 * parent    what the parent of a differencing image holds; making a child
 * chain     images that are changed together, and what changes them
 * reader    a second VHDX reader, which knows nothing of the driver
 * guest     coroutines that use the disk
 * repair    damage to an image, and what mends it
 * record    what a run did, told line by line
 * dirty     dirty bitmaps: a header of their own
 * check     what must hold of one image, and of all that cuts can leave
 * chain-check  the same for the images of a chain
 *
 * Time is a counter: each start and each end of a file operation or a guest
 * request takes the next number ("stamp").  A power cut happens between two
 * stamps.  Everything follows from a seed.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef TESTS_UNIT_VHDX_CRASH_H
#define TESTS_UNIT_VHDX_CRASH_H

#include "block/vhdx/compat.h"
#include "qemu/cutils.h"
#include "qemu/units.h"

#define CRASH_PAGE      4096
#define CRASH_SECTOR    512
#define CRASH_SECTORS   (CRASH_PAGE / CRASH_SECTOR)
#define CRASH_NEVER     UINT32_MAX

/* -- Random numbers -- */

typedef struct CrashRng {
    uint64_t state;
} CrashRng;

/* A good mix of the bits of @x. */
static inline uint64_t crash_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

static inline uint64_t rng_next(CrashRng *rng)
{
    return crash_mix(rng->state += 0x9e3779b97f4a7c15ULL);
}

/* A number from 0 to @n - 1. */
static inline uint64_t rng_below(CrashRng *rng, uint64_t n)
{
    return rng_next(rng) % n;
}

/* True in @percent of a hundred cases. */
static inline bool rng_chance(CrashRng *rng, unsigned percent)
{
    return rng_below(rng, 100) < percent;
}

/* -- vhdx-crash-image.c -- */

/*
 * A page of a file; images share it until one of them writes to it.  @id and
 * @sector say what model_decode() has found in each of its sectors, @hash what
 * image_hash() has made of it.
 */
typedef struct CrashPage {
    unsigned refs;
    bool decoded;
    bool hashed;
    uint64_t hash;              /* 0: all zeros */
    uint32_t id[CRASH_SECTORS];
    uint64_t sector[CRASH_SECTORS];
    uint8_t data[CRASH_PAGE];
} CrashPage;

/* Guest page @page of a disk of @bytes bytes; NULL: zeros. */
typedef CrashPage *CrashPageFunc(uint64_t bytes, uint64_t page);

typedef struct CrashChunk CrashChunk;

typedef struct CrashImage {
    GHashTable *chunks;         /* CrashChunk by number, of CrashPage */
    uint64_t count;             /* of pages that are there */
    uint64_t size;              /* bytes */
    bool garbage;               /* what was never written is not zero */
    bool foreign;               /* as another program may have left it */
} CrashImage;

CrashImage *image_new(uint64_t size, bool garbage);
CrashImage *image_copy(const CrashImage *img);
void image_free(CrashImage *img);

/* A page with a copy of @data, or zeros if that is NULL. */
CrashPage *image_page_new(const uint8_t *data);

/* @page may be NULL. */
void image_page_unref(void *page);

bool image_page_is_zero(CrashPage *page);

/* What tells the content of page number @index from others, or 0 for zeros. */
uint64_t image_page_hash(const CrashImage *img, uint64_t index);

/* Page number @index, or NULL where it reads as zeros. */
CrashPage *image_page(const CrashImage *img, uint64_t index);

/* Bytes of memory that pages and tables of @img take, about. */
uint64_t image_memory(const CrashImage *img);

/* Goes through the pages that there are, in no order. */
typedef struct CrashImageIter {
    GHashTableIter chunks;
    CrashChunk *chunk;
    uint64_t index;             /* of the page that was returned last */
} CrashImageIter;

/* No page may come or go meanwhile. */
void image_iter_init(CrashImageIter *iter, const CrashImage *img);
CrashPage *image_iter_next(CrashImageIter *iter);

/* Bytes behind the end read as zeros, and are gained by writing there. */
void image_read(const CrashImage *img, uint64_t offset, uint64_t bytes,
                uint8_t *buf);
void image_write(CrashImage *img, uint64_t offset, uint64_t bytes,
                 const uint8_t *buf);
void image_put(CrashImage *img, uint64_t index, CrashPage *page);
void image_zero(CrashImage *img, uint64_t offset, uint64_t bytes);
void image_spoil(CrashImage *img, uint64_t offset, uint64_t bytes);
void image_truncate(CrashImage *img, uint64_t size);

/* How many bytes from @offset on, at most @bytes, are known to be zeros. */
uint64_t image_zeros(const CrashImage *img, uint64_t offset, uint64_t bytes);

/* A number that images with another content do not have. */
uint64_t image_hash(const CrashImage *img);

/* Store the image in a sparse file, to look at it. */
void image_dump(const CrashImage *img, const char *path);

/* -- vhdx-crash-ops.c -- */

typedef enum CrashOpKind {
    OP_WRITE,
    OP_ZERO,
    OP_DISCARD,
    OP_TRUNCATE,
    OP_FLUSH,
    OP_READ,                    /* not recorded */
} CrashOpKind;

typedef struct CrashOp {
    CrashOpKind kind;
    uint64_t offset;            /* bytes; of a truncate, the new size */
    uint64_t bytes;
    uint8_t *data;              /* of a write */
    CrashPage **pages;          /* the same by pages of the file, for sharing */
    uint64_t seed;              /* decides how it fails, if it does */
    uint32_t start;             /* stamps */
    uint32_t end;               /* or CRASH_NEVER */
    int ret;
    bool lost;                  /* gone since a flush failed */
} CrashOp;

void op_free(void *op);

/* Let @op take effect as it did when it was completed. */
void op_apply(CrashImage *img, const CrashOp *op);

/* What a power cut may do; each but the first may lose whole operations. */
typedef enum CrashCut {
    CUT_ALL,                    /* everything that was started is there */
    CUT_NONE,                   /* nothing is that need not be */
    CUT_RANDOM,
} CrashCut;

/*
 * Go through recorded operations in time.  @stable is the image with all that
 * is stable.
 */
typedef struct CrashCursor {
    GPtrArray *ops;             /* CrashOp in order of their start */
    GPtrArray *by_end;          /* the same in order of their end */
    GPtrArray *flushes;         /* the successful ones, by end */
    CrashImage *stable;
    guint applied;              /* of @by_end: what was looked at */
    guint flushed;              /* of @flushes: likewise */
    guint first;                /* of @ops: all before it are stable */
    uint32_t now;
    uint64_t payload;           /* bytes: where blocks begin in the file */
} CrashCursor;

CrashCursor *cursor_new(const CrashImage *base, GPtrArray *ops,
                        uint64_t payload);
void cursor_free(CrashCursor *cur);

/* Go on to stamp @now. */
void cursor_advance(CrashCursor *cur, uint32_t now);

/* What a power cut does to one operation */
typedef enum CrashFate {
    FATE_WHOLE,
    FATE_LOST,
    FATE_TORN,                  /* its first half is there */
    FATE_REST,                  /* its second half is */
} CrashFate;

/* The operations that a cut could lose now, in order of their start */
GPtrArray *cursor_pending(const CrashCursor *cur);

/* What a cut leaves that does @fates to them */
CrashImage *cursor_cut_as(const CrashCursor *cur, const GPtrArray *pending,
                          const CrashFate *fates);

/* What a power cut leaves.  @pending: how many operations it could lose. */
CrashImage *cursor_cut(CrashCursor *cur, CrashCut cut, CrashRng *rng,
                       unsigned *pending);

/* -- vhdx-crash-disk.c -- */

/* Who is told what is done to disks, or NULL */
typedef struct CrashWatch {
    /* @op starts; returns what op_end() calls it, or 0. */
    unsigned (*op)(const CrashOp *op);
    /* It has ended, and the file has @size bytes. */
    void (*op_end)(unsigned id, int ret, uint64_t size);
    /* The driver has been told that so much of the file reads as zeros. */
    void (*zeros)(uint64_t offset, uint64_t bytes);
} CrashWatch;

extern const CrashWatch *crash_watch;

/* What kind of node it is; all false for a plain file. */
typedef struct CrashNode {
    bool fixed_size;            /* can't grow or shrink, is full of garbage */
    bool no_truncate;           /* ... and says so, also to shrinking */
    bool no_zero_growth;        /* what it gains in length is garbage */
    bool no_write_zeroes;
    bool no_discard;
} CrashNode;

typedef struct CrashFault {
    CrashOpKind kind;
    bool metadata;              /* only below @payload, or only above it */
    unsigned countdown;         /* this one fails; 0: none */
    bool lose;                  /* a flush: what was not stable never gets so */
    bool stick;                 /* a flush: so do all later ones */
} CrashFault;

typedef struct CrashDisk {
    BlockDriverState *bs;
    CrashNode node;
    const char *path;           /* what it says it is, or NULL */
    struct CrashDisk *lead;     /* its time and order are this one's, too */
    CrashImage *view;           /* what a read returns */
    GPtrArray *ops;             /* CrashOp, recorded */
    bool instant;               /* operations complete at once, unrecorded */
    bool in_order;              /* ... one after the other, as issued */
    bool dead;                  /* ... fail, and do nothing: who asks is gone */
    unsigned changes;           /* operations that were no reads */
    CrashRng rng;
    GPtrArray *pending;         /* of PendingOp */
    QEMUBH *bh;
    uint32_t now;               /* the latest stamp */
    uint64_t payload;           /* bytes: where blocks begin in the file */
    bool full;                  /* no space: growth fails, writes may */
    bool solid;                 /* ... none for growth or in holes */
    unsigned unsure;            /* percent of data writes that fail so too */
    unsigned unsure_log;        /* ... and of log writes */
    uint64_t limit;             /* bytes: longer the file can't be; 0: it can */
    CrashFault fault;
    bool fault_hit;
    bool flush_broken;
    uint32_t lose_from;         /* stamps: what ended between was maybe lost */
    uint32_t lose_to;
    BlockDriverState *parent;   /* of the image, or NULL */
    uint64_t parent_size;       /* bytes */
    CrashPageFunc *parent_page;
} CrashDisk;

/* A disk that starts with @view, its own from now on, as block node "disk". */
CrashDisk *disk_new(CrashImage *view, const CrashNode *node,
                    uint64_t seed);

/*
 * The same as block node @name, which says that it is the file @path unless
 * that is NULL.  If @lead is not NULL, stamps are taken from that disk, and
 * operations on both complete in any order.
 */
CrashDisk *disk_new_beside(CrashImage *view, const CrashNode *node,
                           uint64_t seed, const char *name, const char *path,
                           CrashDisk *lead);
void disk_free(CrashDisk *disk);

/*
 * Let there be a node "parent" of @bytes bytes, whose content @page_func tells,
 * the reads of which complete as @disk's do; it goes with @disk.
 */
void disk_add_parent(CrashDisk *disk, uint64_t bytes, CrashPageFunc *page_func);

/* -- vhdx-crash-model.c -- */

/* In place of the number of a write: what the parent has. */
#define CRASH_PARENT    (CRASH_NEVER - 1)

/* That or zeros: the disk may have ended there in an earlier run. */
#define CRASH_EITHER    (CRASH_NEVER - 2)

/* Parameters of an image that a run may choose */
typedef struct CrashShape {
    uint64_t disk_size, block_size, sector_size;
    uint64_t payload;               /* bytes: where blocks begin in the file */
    uint64_t parent_size;           /* bytes; 0: there is none */
    uint64_t zero_from, zero_end;   /* of the disk: it reads as zeros there */
    bool stale_bits;                /* it has sector bitmaps full of bits */
    unsigned complete;              /* as in CrashWorkload */
} CrashShape;

typedef enum GuestKind {
    GUEST_WRITE,
    GUEST_ZERO,
    GUEST_DISCARD,
    GUEST_FLUSH,
} GuestKind;

typedef struct GuestOp {
    GuestKind kind;
    bool fua;                   /* stable when it ends */
    bool exempt;                /* a failed flush may have lost it */
    bool resize;                /* it is one, from the first sector lost on */
    uint64_t sector;            /* first one */
    uint64_t count;             /* sectors */
    uint32_t start;             /* stamps */
    uint32_t end;
    int ret;
} GuestOp;

/*
 * What is known of a page of the guest's disk that was ever written to or, in a
 * differencing image, zeroed or discarded.
 */
typedef struct CrashSpot {
    uint64_t page;
    uint32_t base[CRASH_SECTORS];   /* the write seen there at first, or 0 */
    uint32_t stable[CRASH_SECTORS]; /* what ended before it is overwritten */
    uint32_t zero[CRASH_SECTORS];   /* latest end of a zeroing; 0: none */
} CrashSpot;

/* A change of the disk's size; there is one at a time. */
typedef struct GuestResize {
    uint64_t size;              /* bytes */
    uint32_t start;             /* stamps */
    uint32_t end;
    int ret;
    uint32_t undone;            /* a flush after it has ended then, or 0 */
} GuestResize;

typedef struct CrashModel {
    uint32_t first_id;              /* number of @ops' first */
    GArray *ops;                    /* GuestOp, in order of their start */
    GArray *spots;                  /* CrashSpot, by page */
    uint64_t first_size;            /* of the disk at first, bytes */
    GArray *resizes;                /* GuestResize */
    uint64_t resized_from;          /* sector: the disk has ended there */
    uint64_t first_resized_from;    /* ... before this model began */
    uint64_t resized_to;            /* bytes: ... and here at most */
    uint32_t now;                   /* stamp up to which @spots tells */
    uint32_t flush_start;           /* of the latest successful flush */
    GArray *settled;                /* bool for each of @ops: in @stable */
    guint started;                  /* of @ops: in @zero */
    const CrashShape *shape;
    struct CrashTracks *tracks;     /* of dirty bitmaps, or NULL */
} CrashModel;

/*
 * What @before's spots hold, as @seen says for each of their sectors, is what
 * the new model begins with; either may be NULL.  @shape is not copied.
 */
CrashModel *model_new(const CrashModel *before, const uint32_t *seen,
                      const CrashShape *shape);
void model_free(CrashModel *model);

/* What @model knows now, which no later request changes. */
CrashModel *model_copy(const CrashModel *model);

/* Note a request at its start; returns its index in @ops. */
unsigned model_begin(CrashModel *model, GuestKind kind, uint64_t sector,
                     uint64_t count, uint32_t now);
void model_end(CrashModel *model, unsigned index, uint32_t now, int ret);

/* What the guest writes: @count sectors that tell write @index from others. */
void model_fill(CrashModel *model, unsigned index, uint64_t sector,
                uint64_t count, uint8_t *buf);

/* What the parent holds in @count sectors from @sector on. */
void model_fill_parent(uint64_t sector, uint64_t count, uint8_t *buf);

/*
 * The number of the write that made @page's sector @i, 0 for zeros, or
 * CRASH_PARENT or, for what no write ever made, CRASH_NEVER.
 */
uint32_t model_decode(CrashPage *page, unsigned i, uint64_t *sector);

/*
 * Note a change of the disk's size, which was @size, to @new_size: what is
 * behind the smaller one is zero afterwards.  Returns its index in @ops.
 */
unsigned model_resize_begin(CrashModel *model, uint64_t size,
                            uint64_t new_size, uint64_t max_size,
                            uint32_t now);
/*
 * A flush from @start to @end has worked: what a resize that found no space has
 * left of itself in the log is not there any more.
 */
void model_resize_flushed(CrashModel *model, uint32_t start, uint32_t end);
void model_resize_end(CrashModel *model, unsigned index, uint32_t now,
                      int ret);

/* Whether the disk may have @size bytes now. */
bool model_allows_size(const CrashModel *model, uint64_t size);

/*
 * Check what the guest has read between the stamps @start and @end.  Returns
 * NULL or what is wrong.
 */
char *model_check_read(CrashModel *model, uint64_t sector, uint64_t count,
                       uint32_t start, uint32_t end, const uint8_t *buf);

/*
 * The process that has done the requests was killed, and the disk of @size
 * bytes holds what is in @buf.  What no flush has covered and is not there is
 * taken for a request that has failed.
 */
void model_restart(CrashModel *model, uint64_t size, const uint8_t *buf);

/* All requests are known: make the spots.  Then go on to stamp @now. */
void model_settle(CrashModel *model);
void model_advance(CrashModel *model, uint32_t now);

/* The index of the first spot at or behind guest page @page. */
guint model_spot(const CrashModel *model, uint64_t page);

/* Whether sector @i of @spot may hold @id now. */
bool model_allows(const CrashModel *model, const CrashSpot *spot, unsigned i,
                  uint32_t id);

/* -- vhdx-crash-parent.c -- */

/* Whether guest page @page is in a parent of @bytes bytes, else: zeros. */
bool parent_has(uint64_t bytes, uint64_t page);

/* The page; NULL: zeros. */
CrashPage *parent_page(uint64_t bytes, uint64_t page);

/* -- vhdx-crash-reader.c -- */

/* A field of an image that is wrong; all is in one sector. */
typedef struct CrashDamage {
    uint64_t offset;
    unsigned bytes;
    uint8_t sound[8];               /* what it held */
    uint8_t bad[8];                 /* what it holds */
    uint8_t mended[8];              /* what a repair makes of it */
    bool kept;                      /* ... which is nothing: it stays bad */
    bool zero;                      /* the block reads as zeros meanwhile */
    uint64_t block;                 /* whose BAT entry it is, plus 1, or 0 */
} CrashDamage;

/* What takes space in the file, in MiB */
typedef struct CrashRange {
    uint64_t first;
    uint64_t count;
    uint64_t owner;                 /* block number + 1, or 0: something else */
} CrashRange;

typedef struct CrashBlock {
    uint64_t number;
    uint64_t place;                 /* in the file, bytes, or 0 */
    bool partial;                   /* it has bits for its sectors */
    bool parents;                   /* it leaves all of itself to the parent */
} CrashBlock;

typedef struct CrashReader {
    const CrashImage *img;
    GHashTable *replayed;           /* CrashPage by number of the file's page */
    bool header_valid[2];
    bool log_named[2];              /* LogGuid is not zero */
    bool copies_agree;              /* both headers, but for their numbers */
    bool dirty;                     /* there is a log to be replayed */
    uint64_t size;                  /* bytes, after the replay */
    uint64_t last;                  /* LastFileOffset, bytes; 0: no log */
    uint64_t log_offset, bat_offset, meta_offset;
    uint32_t log_length, bat_length, meta_length;
    uint64_t block_size, disk_size, sector_size;
    uint64_t chunk_ratio;
    uint64_t behind;                /* BAT entries behind the last block's */
    uint64_t odd;                   /* ... that only a child has a use for */
    bool has_parent;
    bool fixed;                     /* LeaveBlockAllocated */
    uint8_t disk_id;                /* the first byte of it */
    uint32_t physical_size;         /* of a sector */
    uint8_t file_write[16];         /* FileWriteGuid */
    uint8_t data_write[16];         /* DataWriteGuid */
    uint64_t items_end;             /* of metadata, bytes in their region */
    struct CrashDirty *dirty_bitmaps;
    uint8_t linkage[2][16];         /* of the locator, or nil */
    char parent_name[32];           /* its relative_path, without a folder */
    const struct CrashReader *parent;   /* set by who has read that as well */
    GHashTable *blocks;             /* file offset / MiB by block number */
    GHashTable *partial;            /* of these, blocks with bits for sectors */
    GHashTable *zeros;              /* blocks that say they are all zeros */
    GHashTable *bitmaps;            /* file offset / MiB by chunk number */
    CrashBlock *last_found;         /* by reader_find() */
    GArray *taken;                  /* CrashRange, by its place */
    unsigned bad;                   /* damage that is there */
    unsigned left;                  /* ... and is to be mended */
    GHashTable *damaged;            /* CrashDamage of blocks: a bad entry */
} CrashReader;

/*
 * Read and judge a file.  Of each @damage (CrashDamage by offset, may be NULL)
 * there may be the bad or the mended field; it is read as if it were sound.
 * Returns NULL, with @why set, if it is not right.
 */
CrashReader *reader_new(const CrashImage *img, const GArray *damage,
                        char **why);
void reader_free(CrashReader *reader);

/* What the BAT says of @block, until the next call; it has been read. */
const CrashBlock *reader_find(const CrashReader *reader, uint64_t block);

/* Where @block is in the file, bytes, or 0. */
uint64_t reader_block(const CrashReader *reader, uint64_t block);

/* The block whose place byte @offset of the file is in, plus 1, or 0. */
uint64_t reader_owner(const CrashReader *reader, uint64_t offset);

/* One bit for each sector of guest page @page; 0 where there is no bitmap. */
uint8_t reader_bits(const CrashReader *reader, uint64_t page);

/* The page at byte @offset of the file after replay; NULL: zeros. */
CrashPage *reader_page(const CrashReader *reader, uint64_t offset);

/* Bytes of the file after replay */
void reader_read(const CrashReader *reader, uint64_t offset, uint64_t bytes,
                 uint8_t *buf);

/* CRC-32C */
uint32_t reader_crc(const uint8_t *buf, size_t bytes);

/* -- vhdx-crash-guest.c -- */

/* What a guest does, out of a hundred. */
typedef struct CrashMix {
    unsigned write, zero, discard, flush, read, resize;
    unsigned compact, log_size, subformat;  /* by amend */
    unsigned command;               /* for dirty bitmaps */
} CrashMix;

/* What such a command does, out of a hundred; the rest enables or disables. */
typedef struct CrashCommands {
    unsigned add, clear, merge, remove, job;
} CrashCommands;

/* What is done to a chain of images */
typedef enum CrashMerge {
    MERGE_NONE,                     /* there is none */
    MERGE_COMMIT,                   /* last into the one before, goes on */
    MERGE_TROUBLE,                  /* ... and the first attempt fails */
    MERGE_PIVOT,                    /* ... into the first, which goes on */
    MERGE_MIDDLE,                   /* of three, the one in the middle goes */
    MERGE_STREAM,                   /* ... and what it has is in the last one */
    MERGE_FLATTEN,                  /* the last one has no parent then */
    MERGE_SNAPSHOT,                 /* a second one is put upon the first */
    MERGE_ADOPT,                    /* ... has no parent, and gets the first */
} CrashMerge;

typedef struct CrashWorkload {
    const char *name;
    const char *about;
    /* The image */
    uint64_t disk_mib;
    uint64_t disk_kib;              /* not by chance: so long, if not 0 */
    uint64_t max_mib;               /* it is resized to that at the most */
    unsigned block_mib[3];          /* one of them; 0: none */
    bool fixed;
    bool state_zero;
    bool only_512;                  /* no 4096 byte logical sectors */
    bool gaps;                      /* all blocks present, with gaps between */
    bool kept;                      /* none is, but each keeps its place */
    bool child;                     /* it has a parent */
    unsigned room_mib;              /* space on a node that can't grow */
    CrashNode node;
    /* The guest */
    unsigned guests;
    unsigned actions;               /* of all guests in one session */
    unsigned sessions;              /* from open to close */
    CrashMix mix;
    unsigned area_kib;              /* 0: the whole disk */
    unsigned big;                   /* percent of writes up to 5 MiB */
    unsigned big_mib;               /* ... up to that, zeroes as well */
    bool in_turn;                   /* writes go to one block after the other */
    unsigned whole;                 /* percent of zeroes on whole blocks */
    unsigned rest;                  /* percent of them up to the disk's end */
    bool one_page_each;             /* each write needs another BAT page */
    unsigned spread;                /* a child: so many blocks, likewise */
    unsigned apart;                 /* ... one of so many; 0: of 512 */
    unsigned complete;              /* ... of which so many have all sectors */
    unsigned burst[9];              /* so many writes, then a flush, by turns */
    bool full;                      /* space ends and comes back */
    bool full_close;                /* there is none when the image is closed */
    unsigned unsure;                /* percent of data writes that fail */
    unsigned unsure_log;            /* ... and of log writes */
    unsigned limit_mib;             /* the file can't get longer */
    bool fail;                      /* one operation fails */
    bool lose;                      /* ... a flush, with what it was for */
    bool resume;                    /* ... and writing is resumed then */
    bool small_cache;               /* 64 metadata pages */
    bool early;                     /* entries beside their data */
    bool online;                    /* compacting lets requests go on */
    bool beside;                    /* ... and other amends */
    unsigned bitmaps;               /* persistent dirty ones, at first */
    unsigned granule;               /* ... of 2^that bytes; 0: by chance */
    CrashCommands commands;
    unsigned stores;                /* percent of sessions: in the middle */
    bool store_fails;               /* ... where one operation fails */
    bool create;                    /* making the image is what is tested */
    CrashMerge merge;               /* a change of a chain is */
    unsigned levels;                /* ... of so many images */
    bool base_full;                 /* ... the parent has no space for it */
    unsigned damage;                /* repair is: BAT pages with damage */
    /* The power cuts */
    unsigned points;                /* at most, for one run */
    unsigned states;                /* random ones at each point */
    unsigned recover;               /* percent of states that go on */
    unsigned generations;           /* cuts one after the other */
    bool go_on;                     /* ... with as much to do after each */
} CrashWorkload;

extern const CrashWorkload crash_workloads[];

/* What happened to a file between two power cuts. */
typedef struct CrashRun {
    const CrashWorkload *workload;
    CrashImage *base;               /* the file before */
    CrashImage *last;               /* the file afterwards */
    GPtrArray *ops;
    CrashModel *model;
    CrashNode node;
    uint64_t payload;               /* bytes: where blocks begin in the file */
    uint32_t end;                   /* stamp */
    bool closed;                    /* cleanly, without an error before it */
    GPtrArray *wrong;               /* what was found wrong on the way */
} CrashRun;

/* An amend that is under way, or not */
typedef struct GuestJob {
    struct Guests *g;
    bool busy;
    double progress;                /* from 0 to 1 */
} GuestJob;

/* Those who use a disk at the same time */
typedef struct Guests {
    const CrashWorkload *w;
    const CrashShape *shape;
    CrashRun *run;
    CrashDisk *disk;
    BlockBackend *blk;
    CrashRng rng;
    unsigned left;                  /* actions to be done */
    unsigned running;               /* coroutines */
    uint64_t next_page;             /* of the BAT, to be dirtied next */
    uint64_t disk_size;             /* bytes */
    bool resizing;
    GuestJob compact;               /* in use */
    GuestJob amend;                 /* all others */
    unsigned burst;                 /* index in the workload's */
    unsigned burst_left;            /* writes until the next flush */
    bool command;                   /* for dirty bitmaps, to be done next */
} Guests;

/* The next stamp */
uint32_t guests_stamp(Guests *g);

/*
 * A flush has failed and has lost things, and flushes work again: go on.  That
 * must be refused where new blocks wait for data that may be lost, and only
 * there.
 */
bool guests_resume(Guests *g);

/* A flush has lost what it was for: that need not be there any more. */
void guests_exempt(Guests *g);

/* Let guests do so many @actions, of all of them. */
void guests_enter_all(Guests *g, unsigned actions);

/* Until they have. */
void guests_wait(Guests *g);

/* One write, and then a flush, both of which must succeed */
void guests_write_and_flush(Guests *g);

/* A run on @base, which it takes. */
CrashRun *run_new(const CrashWorkload *workload, CrashImage *base);

/* Take what has been recorded from the disk. */
void run_end(CrashRun *run, CrashDisk *disk);

void G_GNUC_PRINTF(2, 3) run_wrong(CrashRun *run, const char *format, ...);

/* Whether @bs writes log entries beside their data wherever that is allowed. */
void guest_set_early(BlockDriverState *bs, bool early);

/* Open the node "disk" as VHDX, with the node "parent" if there is one. */
BlockBackend *guest_open(const CrashWorkload *w, int flags, Error **errp);

/*
 * Let guests use the image @base; @before and @seen as for model_new().  With
 * @brief they do little: it is the recovery that matters.
 */
CrashRun *guest_run(const CrashWorkload *workload, const CrashShape *shape,
                    const CrashImage *base, const CrashModel *before,
                    const uint32_t *seen, bool brief, uint64_t seed);
void guest_run_free(CrashRun *run);

/* -- vhdx-crash-parent.c, again -- */

/*
 * Make @img, a new image that @reader has read, the child of a parent, as other
 * programs may leave one; @shape gets what that adds to it.
 */
void child_make(CrashImage *img, const CrashReader *reader,
                const CrashWorkload *workload, CrashShape *shape,
                CrashRng *rng);

/*
 * Leave in the BAT of @img, which has no parent, what means nothing there, but
 * would in a child.
 */
void orphan_make(CrashImage *img, const CrashReader *reader, CrashRng *rng);

/* -- vhdx-crash-create.c -- */

/* Make an image for @workload, and choose its @shape. */
CrashRun *guest_create(const CrashWorkload *workload, CrashShape *shape,
                       CrashRng *rng);

/* -- vhdx-crash-repair.c -- */

/* Damage @img, which @reader has read.  Returns an array of CrashDamage. */
GArray *damage_image(const CrashWorkload *workload, const CrashReader *reader,
                     CrashImage *img, CrashRng *rng);

/*
 * Let the image @base with @damage be repaired; @before and @seen as for
 * model_new().  With @instant nothing is recorded.
 */
CrashRun *repair_run(const CrashWorkload *workload, const CrashShape *shape,
                     const CrashImage *base, const GArray *damage,
                     const CrashModel *before, const uint32_t *seen,
                     bool instant, uint64_t seed);

/* -- vhdx-crash-check.c -- */

typedef struct CrashTotals {
    unsigned seeds, points, states, violations;
    unsigned again;                 /* states that were judged before */
} CrashTotals;

/* What was found in a state that was right, but for what depends on time */
typedef struct CrashVerdict {
    uint64_t disk_size;
    bool has_parent;
    struct CrashDirty *dirty_bitmaps;
    uint32_t seen[];                /* as of check_spots() */
} CrashVerdict;

typedef struct CrashContext {
    const CrashWorkload *workload;
    CrashShape shape;
    GArray *damage;                 /* CrashDamage; NULL: the image is sound */
    uint64_t seed;
    CrashTotals totals;
    GHashTable *verdicts;           /* CrashVerdict by a state's hash */
    bool verbose;
    bool stop;                      /* one violation is enough */
    const char *dump;               /* write the first bad image there */
} CrashContext;

/* Run @ctx->workload once with @ctx->seed, and check all it can leave. */
void check_seed(CrashContext *ctx);

/* What is wrong, in words; to be freed with g_free() */
char *G_GNUC_PRINTF(1, 2) text(const char *format, ...);

/* Tell of something that is wrong, in the image @img, which may be NULL. */
void violation(CrashContext *ctx, const CrashImage *img, const char *path,
               const char *why);

/* A new @ctx->verdicts: what was right need not be for another model. */
GHashTable *verdicts_new(void);

/* What was found in the state @hash, or NULL */
CrashVerdict *verdict_find(CrashContext *ctx, uint64_t hash);

/* Note that it is right; @seen has numbers for @model's spots. */
void verdict_add(CrashContext *ctx, uint64_t hash, const CrashReader *r,
                 const CrashModel *model, const uint32_t *seen);

/* Check by the @model of another time what check_spots() has @seen. */
char *check_seen(const CrashVerdict *verdict, const CrashModel *model,
                 uint32_t *seen);

/* Whether what has been found is all that is wanted. */
bool enough(CrashContext *ctx);

/* Which of two stamps is the earlier one, to sort them */
int compare_stamps(const void *a, const void *b);

/* Stamps to cut the power at: all, or @most of them. */
GArray *points_choose(const CrashRun *run, unsigned most, CrashRng *rng);

/* The guest's page @page, with a reference; NULL for zeros. */
CrashPage *guest_page(const CrashReader *r, const CrashModel *model,
                      uint64_t page);

/*
 * Check the pages that were ever written to, and note in @seen which write
 * each of their sectors is from.  Returns NULL or what is wrong.
 */
char *check_spots(const CrashReader *r, const CrashModel *model,
                  uint32_t *seen);

/* Check that the driver reads the same, in all these and some other pages. */
char *check_reads(BlockBackend *blk, const CrashReader *r,
                  const CrashModel *model, CrashRng *rng);

/* -- vhdx-crash-record.c -- */

/* Let there be a record in the file @path from now on. */
void record_to(const char *path, Error **errp);
bool record_is_on(void);

/* A run on @base begins, of which @model tells; it ends. */
void record_run(const CrashWorkload *w, const CrashImage *base,
                const CrashModel *model);
void record_run_end(void);

/* A guest's request begins, which is the model's number @index; it ends. */
void record_guest(unsigned index, const GuestOp *op);
void record_guest_end(unsigned index, int ret);

/* Whether the model knows all that is done in @w. */
bool record_can(const CrashWorkload *w);

/* Record @ctx->workload with @ctx->seed, and a run on what a cut leaves. */
void record_seed(CrashContext *ctx);

/* -- vhdx-crash-chain.c -- */

/* So many images may be in a chain. */
#define CRASH_LEVELS    5

/* The last image of a chain gets a parent, or loses it. */
typedef struct CrashTurn {
    uint32_t start;                 /* stamps */
    uint32_t end;
    bool has_parent;                /* afterwards */
} CrashTurn;

/* What happened to a chain; its images are numbered from the parent on. */
typedef struct CrashChain {
    const CrashWorkload *workload;
    CrashShape shape;               /* of the last image */
    int count;
    CrashRun *runs[CRASH_LEVELS];   /* all have the same model */
    uint64_t payload[CRASH_LEVELS]; /* bytes: where blocks begin in the file */
    CrashImage *siblings[CRASH_LEVELS];     /* another child of each */
    GPtrArray *contents[CRASH_LEVELS];      /* ... its pages, at first */
    CrashModel *model;              /* what the guest's disk holds */
    CrashModel *stale;              /* ... at the stamp @pivot */
    uint32_t pivot;                 /* the guest uses another from here on */
    uint32_t linked;                /* ... which goes with its parent */
    uint32_t change_start;          /* stamps: what is done to the chain */
    uint32_t change_end;
    GArray *turns;                  /* CrashTurn, in their order */
    uint32_t end;
    bool closed;
} CrashChain;

/* Make a chain, and run the workload on it. */
CrashChain *chain_run(const CrashWorkload *workload, CrashRng *rng);
void chain_free(CrashChain *chain);

/* Which image the guest uses at the stamp @now. */
int chain_used(const CrashChain *chain, uint32_t now);

/* The file of image @level of a chain; arguments as for disk_new_beside() */
CrashDisk *chain_disk(CrashImage *view, const CrashNode *node, uint64_t seed,
                      int level, CrashDisk *lead);

/* Open the images @levels, each the child of the one before, in these files. */
BlockBackend *chain_open(const int *levels, int count, int flags,
                         Error **errp);

/* The node of image @level, where it is open. */
BlockDriverState *chain_node(int level);

/*
 * A new image; if @parent is not NULL, the child of that one, which is the
 * image number @level.
 */
CrashImage *chain_image_new(const CrashWorkload *w, CrashShape *shape,
                            const CrashImage *parent, int level, CrashRng *rng);

/* Open the image number @level, writable, and without its parent. */
BlockDriverState *chain_overlay_open(int level, Error **errp);

/* Let @parent, or nothing if that is NULL, be what @bs has below it. */
int chain_set_parent(BlockDriverState *bs, BlockDriverState *parent,
                     Error **errp);

/* Somebody who uses the node @bs, with these permissions */
BlockBackend *chain_blk(BlockDriverState *bs, uint64_t perm);

/*
 * Copy what is in @top or below, above @base, from @top's content to @to.
 * Returns 0 or -errno.
 */
int chain_copy(BlockDriverState *top, BlockDriverState *base,
               BlockBackend *from, BlockBackend *to, Error **errp);

/* -- vhdx-crash-chain-check.c -- */

/* What a cut has left, and one more child of one of them */
typedef struct CrashFiles {
    const CrashImage *images[CRASH_LEVELS + 1];
    CrashReader *readers[CRASH_LEVELS + 1];
    int levels[CRASH_LEVELS + 1];   /* what goes together, from the parent on */
    int count;
    bool fit;                       /* ... by what they say */
} CrashFiles;

/* Read all images; returns NULL or what is wrong. */
char *files_read(CrashFiles *f);
void files_free(CrashFiles *f);

/*
 * Find the parents of image @last, by their names, and whether all go together.
 * Returns NULL or what is wrong.
 */
char *files_link(CrashFiles *f, int last);

/*
 * What the driver makes of the images that go together: it opens them, or
 * refuses to if they do not fit.
 */
char *files_check_driver(CrashContext *ctx, const CrashFiles *f,
                         const CrashModel *model, CrashRng *rng);

/*
 * Note what a new chain holds, as it is read, in which @made tells what was
 * written.
 */
void chain_check_made(CrashChain *chain, const CrashModel *made);

/* Check all that cuts can leave of a chain. */
void chain_check_seed(CrashContext *ctx, CrashRng *rng);

/* -- vhdx-crash-short.c -- */

/* Image @level is what the guest uses from a stamp on. */
typedef struct ShortUse {
    uint32_t now;
    int level;
    bool linked;                    /* ... and it goes with its parent */
} ShortUse;

/* What happened in a short history */
typedef struct ShortRun {
    char *history;                  /* in words */
    bool further;                   /* ... and what a cut left of that */
    CrashShape shape;
    CrashRun *runs[CRASH_LEVELS];   /* of each image; none has a model */
    int count;
    CrashModel *model;
    GArray *uses;                   /* ShortUse, by stamp */
    GArray *points;                 /* stamps: less is allowed from there on */
    bool resized, killed;
    uint32_t from;                  /* stamp at which the last action began */
    uint32_t end;
    char *wrong;                    /* on the way, or NULL */
} ShortRun;

/* Which short histories are wanted */
typedef struct ShortChoice {
    unsigned depth;                 /* so many actions at the most */
    const char *history;            /* ... or this one alone; NULL: all */
    unsigned part, parts;           /* the first of so many is 1 */
} ShortChoice;

/* The kinds of images, until NULL */
extern const char *const short_kinds[];

/*
 * Go through the histories of @choice on images of the kind @name, and tell of
 * them in a line for test @number.  Returns whether nothing is wrong.
 */
bool short_run(CrashContext *ctx, const char *name, const ShortChoice *choice,
               int number);

/*
 * Write to what a cut has left of @before, in @files, and close it; @seen is
 * what the disk holds.  @choice is a number for what is done before that.
 */
ShortRun *short_run_further(const CrashWorkload *workload,
                            const ShortRun *before, const CrashFiles *files,
                            const uint32_t *seen, const char *history,
                            unsigned choice);
void short_run_free(ShortRun *run);

/* -- vhdx-crash-short-check.c -- */

/* States that were right in one history or another */
typedef struct ShortKnown {
    GHashTable *states;             /* by their hash */
    GHashTable *contents;           /* what the guest's disk held in them */
    unsigned cuts, recovered;       /* how many there were */
} ShortKnown;

ShortKnown *short_known_new(void);
void short_known_free(ShortKnown *known);

/* Check all that cuts can leave of @run, from @run->from on. */
void short_check(CrashContext *ctx, const ShortRun *run, ShortKnown *known);

/* -- test-vhdx-crash.c -- */

/* Let GUIDs be those that follow from @seed. */
void crash_seed_guids(uint64_t seed);

#endif
