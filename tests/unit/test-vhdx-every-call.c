/*
 * VHDX unit tests: every request to the file fails once
 *
 * What is done to an image, from opening to closing it, is done again and again
 * over files in memory.  Each time another request to one of the files fails:
 * the first one, the second one and so on, until none is left.  It fails in one
 * of several ways.  Afterwards the image opens, its check finds no error, and
 * what a flush has made sure of is there; it can be used on.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/main-loop.h"
#include "qemu/option.h"
#include "qemu/units.h"
#include "block/block_int.h"
#include "block/vhdx/change.h"
#include "vhdx-test-create.h"
#include "vhdx-test-request.h"
#include "vhdx-test-util.h"

#define BLOCK       MiB
#define DISK_SIZE   (16 * MiB)

/* Content is told by cells; each is full of one of 32 numbers. */
#define CELL        (64 * KiB)
#define CELLS       320                 /* of a disk that has got longer */
#define PER_BLOCK   (BLOCK / CELL)

/* -- Files in memory -- */

#define FILE_MAX    (64 * MiB)

enum { IMAGE, PARENT, FILES };

/* All behind the end is zeros. */
typedef struct File {
    uint8_t *data;
    uint64_t size;
} File;

static File files[FILES];

/* What the files hold before each run, and which cells may differ from that */
static File before[FILES];
static bool changed[FILES][FILE_MAX / CELL];

static void file_touch(unsigned i, uint64_t from, uint64_t to)
{
    g_assert_cmpuint(to, <=, FILE_MAX);
    for (uint64_t at = from / CELL; at * CELL < to; at++) {
        changed[i][at] = true;
    }
}

static void file_set_size(unsigned i, uint64_t size)
{
    File *f = &files[i];

    g_assert_cmpuint(size, <=, FILE_MAX);
    if (size < f->size) {
        file_touch(i, size, f->size);
        memset(f->data + size, 0, f->size - size);
    }
    f->size = size;
}

/* The files are as they were before the run. */
static void files_reset(void)
{
    for (unsigned i = 0; i < FILES; i++) {
        files[i].size = before[i].size;
        for (unsigned at = 0; at < FILE_MAX / CELL; at++) {
            if (changed[i][at]) {
                memcpy(files[i].data + at * CELL, before[i].data + at * CELL,
                       CELL);
            }
        }
        memset(changed[i], false, sizeof(changed[i]));
    }
}

/* Runs begin with the files as they are now. */
static void files_keep(void)
{
    for (unsigned i = 0; i < FILES; i++) {
        memcpy(before[i].data, files[i].data, FILE_MAX);
        before[i].size = files[i].size;
        memset(changed[i], false, sizeof(changed[i]));
    }
}

/* -- The fault -- */

typedef enum Way {
    REFUSED,                    /* EIO, and nothing is done */
    DONE,                       /* EIO, though it is done */
    NO_SPACE,                   /* ENOSPC, and nothing is done */
    DEAD,                       /* all that come after it fail as well */
    WAYS
} Way;

static const char *const way_names[] = {
    "refused", "done", "no space", "dead",
};

static struct {
    bool armed;
    Way way;
    unsigned at;                /* the number of the request that fails */
    unsigned calls;             /* so many there were */
    bool hit;
    char name[32];              /* for whoever looks at a core */
} fault;

/* A request begins: 0, or how it ends without being done. */
static int fault_before(void)
{
    unsigned n = fault.calls;

    if (!fault.armed) {
        return 0;
    }
    fault.calls++;
    if (n != fault.at && !(fault.way == DEAD && n > fault.at)) {
        return 0;
    }
    fault.hit = true;
    return fault.way == DONE ? 0 : fault.way == NO_SPACE ? -ENOSPC : -EIO;
}

/* It is done: how it ends. */
static int fault_after(void)
{
    return fault.armed && fault.way == DONE && fault.calls == fault.at + 1 ?
           -EIO : 0;
}

/* -- A node for such a file -- */

typedef struct MemoryState {
    unsigned file;
} MemoryState;

/* Whether there is no preallocation for it */
static bool no_prealloc;

static unsigned file_of(BlockDriverState *bs)
{
    return ((MemoryState *)bs->opaque)->file;
}

static int memory_open(BlockDriverState *bs, QDict *options, int flags,
                       Error **errp)
{
    MemoryState *s = bs->opaque;

    s->file = qdict_get_int(options, "number");
    qdict_del(options, "number");
    bs->supported_zero_flags = BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK;
    bs->supported_truncate_flags = BDRV_REQ_ZERO_WRITE;
    return 0;
}

static void memory_refresh_limits(BlockDriverState *bs, Error **errp)
{
    bs->bl.request_alignment = 1;
}

static int64_t coroutine_mixed_fn memory_getlength(BlockDriverState *bs)
{
    int ret = fault_before();

    return ret ?: fault_after() ?: (int64_t)files[file_of(bs)].size;
}

static int coroutine_fn memory_preadv(BlockDriverState *bs, int64_t offset,
                                      int64_t bytes, QEMUIOVector *qiov,
                                      BdrvRequestFlags flags)
{
    int ret = fault_before();

    if (ret < 0) {
        return ret;
    }
    g_assert_cmpuint(offset + bytes, <=, FILE_MAX);
    qemu_iovec_from_buf(qiov, 0, files[file_of(bs)].data + offset, bytes);
    return fault_after();
}

/* Begin a write of any kind, in which the file gets as long as it takes. */
static int write_before(unsigned i, int64_t offset, int64_t bytes)
{
    int ret = fault_before();

    if (ret == 0) {
        file_touch(i, offset, offset + bytes);
        files[i].size = MAX(files[i].size, offset + bytes);
    }
    return ret;
}

static int coroutine_fn memory_pwritev(BlockDriverState *bs, int64_t offset,
                                       int64_t bytes, QEMUIOVector *qiov,
                                       BdrvRequestFlags flags)
{
    unsigned i = file_of(bs);
    int ret = write_before(i, offset, bytes);

    if (ret < 0) {
        return ret;
    }
    qemu_iovec_to_buf(qiov, 0, files[i].data + offset, bytes);
    return fault_after();
}

static int coroutine_fn memory_pwrite_zeroes(BlockDriverState *bs,
                                             int64_t offset, int64_t bytes,
                                             BdrvRequestFlags flags)
{
    unsigned i = file_of(bs);
    int ret = write_before(i, offset, bytes);

    if (ret < 0) {
        return ret;
    }
    memset(files[i].data + offset, 0, bytes);
    return fault_after();
}

static int coroutine_fn memory_pdiscard(BlockDriverState *bs, int64_t offset,
                                        int64_t bytes)
{
    return memory_pwrite_zeroes(bs, offset, bytes, 0);
}

static int coroutine_fn memory_truncate(BlockDriverState *bs, int64_t offset,
                                        bool exact, PreallocMode prealloc,
                                        BdrvRequestFlags flags, Error **errp)
{
    int ret = fault_before();

    if (ret == 0 && prealloc != PREALLOC_MODE_OFF && no_prealloc) {
        ret = -ENOTSUP;
    }
    if (ret == 0) {
        file_set_size(file_of(bs), offset);
        ret = fault_after();
    }
    if (ret < 0) {
        error_setg(errp, "No such length now");
    }
    return ret;
}

static int coroutine_fn memory_flush(BlockDriverState *bs)
{
    return fault_before() ?: fault_after();
}

static int coroutine_fn memory_block_status(BlockDriverState *bs,
                                            VHDXStatusMode mode,
                                            int64_t offset, int64_t bytes,
                                            int64_t *n, int64_t *map,
                                            BlockDriverState **file)
{
    int ret = fault_before() ?: fault_after();

    if (ret < 0) {
        return ret;
    }
    *n = MIN(bytes, CELL - offset % CELL);
    return buffer_is_zero(files[file_of(bs)].data + offset, *n) ?
           BDRV_BLOCK_ZERO : BDRV_BLOCK_DATA;
}

static int memory_reopen_prepare(BDRVReopenState *state,
                                 BlockReopenQueue *queue, Error **errp)
{
    return 0;
}

static BlockDriver bdrv_memory = {
    .format_name            = "vhdx-test-memory",
    .protocol_name          = "vhdx-test-memory",
    .instance_size          = sizeof(MemoryState),
    .bdrv_open              = memory_open,
    .bdrv_reopen_prepare    = memory_reopen_prepare,
    .bdrv_refresh_limits    = memory_refresh_limits,
    .bdrv_co_getlength      = memory_getlength,
    .bdrv_co_preadv         = memory_preadv,
    .bdrv_co_pwritev        = memory_pwritev,
    .bdrv_co_pwrite_zeroes  = memory_pwrite_zeroes,
    .bdrv_co_pdiscard       = memory_pdiscard,
    .bdrv_co_truncate       = memory_truncate,
    .bdrv_co_flush          = memory_flush,
    .bdrv_co_block_status   = memory_block_status,
};

/* -- What the disk holds -- */

/* Each number that a cell may be full of is a bit. */
typedef struct Disk {
    uint32_t now[CELLS];        /* as it is read until the image is closed */
    uint32_t later[CELLS];      /* ... and once it is opened again */
    uint64_t size;              /* bytes, as of the last success */
    uint32_t sizes_now;         /* ... and in MiB, which are bits, as @now */
    uint32_t sizes_later;       /* ... and as @later */
} Disk;

static Disk disk, disk_before;

/* These cells are to be @value, which has worked, or maybe in part. */
static void disk_change(unsigned first, unsigned count, uint32_t values,
                        bool sure)
{
    for (unsigned i = first; i < first + count; i++) {
        disk.now[i] = values | (sure ? 0 : disk.now[i]);
        disk.later[i] |= values;
    }
}

static int disk_write(BlockBackend *blk, unsigned first, unsigned count,
                      int value)
{
    int ret = write_fill(blk, first * CELL, count * CELL, value);

    disk_change(first, count, 1u << value, ret >= 0);
    return ret;
}

static void disk_write_zeroes(BlockBackend *blk, unsigned first,
                              unsigned count, BdrvRequestFlags flags)
{
    int ret = blk_pwrite_zeroes(blk, first * CELL, count * CELL, flags);

    disk_change(first, count, 1, ret >= 0);
}

static void disk_discard(BlockBackend *blk, unsigned first, unsigned count)
{
    discard_wait(blk, first * CELL, count * CELL);
    disk_change(first, count, 1, false);
}

/* All that is read now is there when the image is opened again. */
static void disk_is_stable(void)
{
    memcpy(disk.later, disk.now, sizeof(disk.later));
    disk.sizes_later = disk.sizes_now;
}

static int disk_flush(BlockBackend *blk)
{
    int ret = blk_flush(blk);

    if (ret >= 0) {
        disk_is_stable();
    }
    return ret;
}

static void disk_truncate(BlockBackend *blk, uint64_t size)
{
    int ret = blk_truncate(blk, size, false, PREALLOC_MODE_OFF, 0, NULL);

    if (size < disk.size) {
        disk_change(size / CELL, (disk.size - size) / CELL, 1, ret >= 0);
    }
    if (ret < 0) {
        disk.sizes_now |= 1u << size / MiB;
    } else {
        disk.size = size;
        disk.sizes_now = 1u << size / MiB;
    }
    disk.sizes_later |= 1u << size / MiB;
}

/* What is read is as it is now to be, or may be @later on. */
static void disk_check(BlockBackend *blk, bool later, bool may_fail)
{
    const uint32_t *values = later ? disk.later : disk.now;
    uint32_t sizes = later ? disk.sizes_later : disk.sizes_now;
    static uint8_t buf[BLOCK];
    int64_t size = blk_getlength(blk);

    if (size < 0) {
        g_assert_true(may_fail);
        return;
    }
    if (!(sizes & (1u << size / MiB))) {
        g_error("%s: the disk has %" PRId64 " MiB, not one of 0x%x", fault.name,
                (int64_t)(size / MiB), sizes);
    }
    for (uint64_t at = 0; at < size; at += BLOCK) {
        int ret = blk_pread(blk, at, BLOCK, buf, 0);

        if (ret < 0 && may_fail) {
            /* It is read if one tries again, unless the file is gone. */
            ret = blk_pread(blk, at, BLOCK, buf, 0);
            if (ret < 0 && fault.way == DEAD) {
                continue;
            }
        }
        g_assert_cmpint(ret, >=, 0);
        for (unsigned i = 0; i < BLOCK; i += 512) {
            unsigned cell = (at + i) / CELL;

            if (buf[i] >= 32 || !(values[cell] & (1u << buf[i])) ||
                memcmp(buf + i, buf + i + 1, 511)) {
                g_error("%s: at 0x%" PRIx64 " there is 0x%x, not one of 0x%x",
                        fault.name, at + i, buf[i], values[cell]);
            }
        }
    }
}

/* -- Runs -- */

static QDict *image_options(unsigned file)
{
    QDict *options = qdict_new();

    qdict_put_str(options, "driver", "vhdx");
    qdict_put_str(options, "discard", "unmap");
    qdict_put_int(options, "cache-size", MiB);
    qdict_put_str(options, "file.driver", "vhdx-test-memory");
    qdict_put_int(options, "file.number", file);
    return options;
}

static bool is_chain;

/* Whether the parent, an empty one, is left out once the run is over */
static bool is_flattened;

static BlockBackend *image_open(int flags, Error **errp)
{
    QDict *options = image_options(IMAGE);
    BlockDriverState *parent = NULL;
    BlockBackend *blk;

    if (is_flattened && !fault.armed) {
        qdict_put_null(options, "backing");
    } else if (is_chain) {
        QDict *below = image_options(PARENT);

        qdict_put_str(below, "node-name", "parent");
        parent = bdrv_open(NULL, NULL, below, 0, errp);
        if (!parent) {
            qobject_unref(options);
            return NULL;
        }
        qdict_put_str(options, "backing", "parent");
    }
    blk = blk_new_open(NULL, NULL, options,
                       flags | BDRV_O_UNMAP | BDRV_O_NO_FLUSH, errp);
    bdrv_unref(parent);
    return blk;
}

/* An image that is open, or NULL */
static BlockBackend *image;

/* Open the image, for writing; the only thing that may come before it */
static bool begin(void)
{
    Error *err = NULL;

    image = image_open(BDRV_O_RDWR | BDRV_O_RESIZE, &err);
    if (err && !fault.armed) {
        g_error("%s: %s", fault.name, error_get_pretty(err));
    }
    error_free(err);
    return image;
}

/* Whether runs begin with an image that has errors */
static bool is_damaged;

static void check_is_sound(void)
{
    BdrvCheckResult result = { 0 };

    if (is_damaged) {
        g_assert_cmpint(bdrv_check(blk_bs(image), &result, BDRV_FIX_ERRORS),
                        ==, 0);
        g_assert_cmpint(result.corruptions, ==, 0);
        result = (BdrvCheckResult) { 0 };
    }
    g_assert_cmpint(bdrv_check(blk_bs(image), &result, 0), ==, 0);
    g_assert_cmpint(result.corruptions, ==, 0);
    g_assert_cmpint(result.check_errors, ==, 0);
}

static void end(void)
{
    if (image) {
        blk_unref(image);
        image = NULL;
    }
}

/* The run is over, and the image can be used as if nothing had happened. */
static void check_after(void)
{
    bool hit = fault.hit;

    fault.armed = false;
    g_assert_true(begin());
    disk_check(image, hit, false);
    check_is_sound();
    disk.size = blk_getlength(image);
    disk.sizes_now = disk.sizes_later = 1u << disk.size / MiB;
    memcpy(disk.now, disk.later, sizeof(disk.now));
    g_assert_cmpint(disk_write(image, 2, 2, 29), >=, 0);
    g_assert_cmpint(disk_write(image, 8 * PER_BLOCK + 3, 7, 30), >=, 0);
    g_assert_cmpint(disk_write(image, 9 * PER_BLOCK, PER_BLOCK, 31), >=, 0);
    g_assert_cmpint(disk_flush(image), >=, 0);
    end();

    g_assert_true(begin());
    disk_check(image, true, false);
    end();
}

/* A run begins, in which request @at fails. */
static void run_begin(unsigned at, Way way)
{
    files_reset();
    fault.at = at;
    fault.way = way;
    fault.hit = false;
    fault.calls = 0;
    fault.armed = true;
    g_snprintf(fault.name, sizeof(fault.name), "%s %u", way_names[way], at);
}

/* Do @scenario with a request that fails. */
static void run(void (*scenario)(void), unsigned at, Way way)
{
    run_begin(at, way);
    disk = disk_before;
    scenario();
    end();
    check_after();
}

/*
 * Do @scenario once for each request that there is, with one way to fail after
 * the other, or with each of them where time does not matter (-m slow).  To
 * look at one of them, begin with it: VHDX_TEST_CALL is its number.
 */
static void run_each(void (*scenario)(void), unsigned least)
{
    const char *call = getenv("VHDX_TEST_CALL");
    unsigned at = call ? atoi(call) : 0;
    unsigned runs = 0;

    end();
    files_keep();
    disk_before = disk;
    do {
        for (unsigned way = 0; way < (g_test_slow() ? WAYS : 1); way++) {
            run(scenario, at, (at + way) % WAYS);
            runs++;
        }
        at++;
    } while (fault.hit);
    /* Nothing has failed in the last one, which had all requests. */
    g_assert_cmpuint(fault.calls, >=, least);
    g_test_message("%u runs, %u requests", runs, fault.calls);
}

/* -- Images -- */

static char *test_dir;
static char *paths[FILES];

static void load(unsigned i)
{
    g_autofree char *content = NULL;
    gsize bytes;

    g_assert_true(g_file_get_contents(paths[i], &content, &bytes, NULL));
    g_assert_cmpuint(bytes, <, FILE_MAX);
    memset(files[i].data, 0, FILE_MAX);
    memcpy(files[i].data, content, bytes);
    files[i].size = bytes;
    unlink(paths[i]);
}

static bool is_fixed;

static void create(unsigned i, const char *backing)
{
    g_autofree char *options =
        g_strdup_printf("block_size=1M,log_size=1M%s",
                        is_fixed ? ",subformat=fixed" : "");

    bdrv_img_create(paths[i], "vhdx", backing, backing ? "vhdx" : NULL,
                    options, DISK_SIZE, BDRV_O_RDWR, true, &error_abort);
}

static void disk_reset(void)
{
    memset(&fault, 0, sizeof(fault));
    memset(&disk, 0, sizeof(disk));
    disk.size = DISK_SIZE;
    disk.sizes_now = disk.sizes_later = 1u << DISK_SIZE / MiB;
    for (unsigned i = 0; i < CELLS; i++) {
        disk.now[i] = disk.later[i] = 1;
    }
    is_chain = is_damaged = is_flattened = no_prealloc = false;
}

/* An image with some blocks, opened and flushed */
static void make_image(void)
{
    disk_reset();
    create(IMAGE, NULL);
    load(IMAGE);
    g_assert_true(begin());
    for (unsigned i = 0; i < 5; i++) {
        g_assert_cmpint(disk_write(image, i * PER_BLOCK, PER_BLOCK, i + 1),
                        >=, 0);
    }
    g_assert_cmpint(disk_write(image, 6 * PER_BLOCK + 2, 3, 6), >=, 0);
    g_assert_cmpint(disk_flush(image), >=, 0);
}

/* ... whose log is needed, as after a kill */
static void make_image_with_log(void)
{
    File kept;

    make_image();
    disk_discard(image, PER_BLOCK, PER_BLOCK);
    g_assert_cmpint(disk_write(image, 10 * PER_BLOCK, 20, 7), >=, 0);
    g_assert_cmpint(disk_flush(image), >=, 0);
    kept.data = g_memdup2(files[IMAGE].data, FILE_MAX);
    kept.size = files[IMAGE].size;
    end();
    memcpy(files[IMAGE].data, kept.data, FILE_MAX);
    files[IMAGE].size = kept.size;
    g_free(kept.data);
}

/*
 * ... with a region and the log behind all blocks, and room between them: the
 * one can be moved down, and the other one stays.
 */
static void make_image_with_region(void)
{
    uint8_t *f = files[IMAGE].data;
    uint64_t end_of_file;

    make_image();
    end();
    end_of_file = files[IMAGE].size;
    file_set_size(IMAGE, end_of_file + 4 * MiB);
    memcpy(f + end_of_file, f + 3 * MiB, MiB);
    memset(f + 3 * MiB, 0, MiB);
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *header = f + (64 + 64 * i) * KiB;
        uint8_t *table = f + (192 + 64 * i) * KiB;

        for (unsigned n = 0; n < 2; n++) {
            if (guid_is(table + 16 + 32 * n, GUID_REGION_METADATA)) {
                put_le(table + 32 + 32 * n, end_of_file, 8);
            }
        }
        seal(table, 64 * KiB);
        put_le(header + 72, end_of_file + 3 * MiB, 8);
        seal(header, 4 * KiB);
    }
    g_assert_true(begin());
}

/* A child of the image, which is closed: it has something, and is open. */
static void make_child(void)
{
    files[PARENT].size = files[IMAGE].size;
    memcpy(files[PARENT].data, files[IMAGE].data, FILE_MAX);
    g_assert_true(g_file_set_contents(paths[PARENT],
                                      (char *)files[PARENT].data,
                                      files[PARENT].size, NULL));
    create(IMAGE, "parent.vhdx");
    load(IMAGE);
    unlink(paths[PARENT]);
    is_chain = true;
    g_assert_true(begin());
    g_assert_cmpint(disk_write(image, PER_BLOCK, 3, 11), >=, 0);
    g_assert_cmpint(disk_write(image, 2 * PER_BLOCK, PER_BLOCK, 12), >=, 0);
    g_assert_cmpint(disk_write(image, 7 * PER_BLOCK, PER_BLOCK, 13), >=, 0);
    g_assert_cmpint(disk_flush(image), >=, 0);
    disk_check(image, false, false);
}

/* A child and its parent, each with something in it; the child is open. */
static void make_chain(void)
{
    make_image();
    end();
    make_child();
}

/*
 * The same, but the parent is empty, and the file has something else in those
 * parts of some blocks that are the parent's.
 */
static void make_empty_chain(void)
{
    uint8_t *f = files[IMAGE].data;

    disk_reset();
    create(IMAGE, NULL);
    load(IMAGE);
    make_child();
    for (unsigned i = 8; i < 12; i++) {
        g_assert_cmpint(disk_write(image, i * PER_BLOCK, 3, i), >=, 0);
    }
    end();
    for (unsigned i = 0; i < 12; i++) {
        uint64_t entry = get_le(f + 2 * MiB + 8 * i, 8);

        /* PARTIALLY_PRESENT: with its first three cells */
        if ((entry & 7) == 7) {
            memset(f + (entry & ~(MiB - 1)) + 3 * CELL, 30, BLOCK - 3 * CELL);
        } else {
            g_assert_cmpuint(i, !=, 1);
            g_assert_cmpuint(i, <, 8);
        }
    }
    g_assert_true(begin());
    disk_check(image, false, false);
}

/* ... whose metadata items are far behind the table */
static void make_chain_with_far_items(void)
{
    uint8_t *metadata = files[IMAGE].data + 3 * MiB;
    const uint32_t far = 512 * KiB;

    make_chain();
    end();
    g_assert_cmpmem(metadata, 8, "metadata", 8);
    for (unsigned i = 0; i < get_le(metadata + 10, 2); i++) {
        uint8_t *entry = metadata + 32 + 32 * i;
        uint32_t offset = get_le(entry + 16, 4), length = get_le(entry + 20, 4);

        memcpy(metadata + far + offset, metadata + offset, length);
        memset(metadata + offset, 0, length);
        put_le(entry + 16, far + offset, 4);
    }
    g_assert_true(begin());
}

/* -- What is done -- */

static void look(void)
{
    disk_check(image, false, true);
}

static void open_and_read(void)
{
    if (begin()) {
        look();
    }
}

static void open_to_read(void)
{
    image = image_open(0, NULL);
    if (image) {
        look();
    }
}

static void write_once(void)
{
    if (begin()) {
        disk_write(image, PER_BLOCK + 1, 2, 20);
        look();
    }
}

/* Each kind of request, in several commits */
static void write_much(void)
{
    if (!begin()) {
        return;
    }
    disk_write(image, PER_BLOCK + 1, 2, 20);
    disk_write(image, 9 * PER_BLOCK + 1, 2, 21);
    disk_flush(image);
    look();
    disk_write(image, 10 * PER_BLOCK, 3 * PER_BLOCK, 22);
    disk_discard(image, 3 * PER_BLOCK, 2 * PER_BLOCK);
    disk_flush(image);
    disk_write_zeroes(image, 2 * PER_BLOCK, PER_BLOCK, BDRV_REQ_MAY_UNMAP);
    disk_write_zeroes(image, 14 * PER_BLOCK + 4, 3, 0);
    disk_write(image, 3 * PER_BLOCK, PER_BLOCK + 5, 23);
    disk_flush(image);
    look();
    disk_write(image, 15 * PER_BLOCK, 1, 24);
}

/* The disk gets longer, then shorter, then longer again. */
static void resize(void)
{
    if (!begin()) {
        return;
    }
    disk_truncate(image, DISK_SIZE + 4 * BLOCK);
    look();
    if (blk_getlength(image) > DISK_SIZE) {
        disk_write(image, 17 * PER_BLOCK, PER_BLOCK, 25);
        disk_flush(image);
        look();
    }
    disk_truncate(image, 10 * BLOCK);
    look();
    disk_truncate(image, DISK_SIZE);
    look();
}

/* The same of a fixed image, each block of which has a place all the while. */
static void resize_fixed(void)
{
    BdrvCheckResult result = { 0 };

    resize();
    fault.armed = false;
    if (image && bdrv_check(blk_bs(image), &result, 0) == 0) {
        g_assert_cmpuint(result.bfi.allocated_clusters, ==,
                         blk_getlength(image) / BLOCK);
    }
    fault.armed = true;
}

static void amend_status(BlockDriverState *bs, int64_t offset,
                         int64_t total, void *opaque)
{
}

/* As qemu-img amend does with -o @options; returns whether that has worked. */
static bool amend(const char *options)
{
    QemuOpts *opts = qemu_opts_create(blk_bs(image)->drv->amend_opts, NULL, 0,
                                      &error_abort);
    int ret;

    qemu_opts_do_parse(opts, options, NULL, &error_abort);
    ret = bdrv_amend_options(blk_bs(image), opts, amend_status, NULL, false,
                             NULL);
    qemu_opts_del(opts);
    return ret >= 0;
}

static void compact_as(const char *options)
{
    if (!begin()) {
        return;
    }
    disk_discard(image, 0, PER_BLOCK);
    disk_discard(image, 3 * PER_BLOCK, PER_BLOCK);
    disk_write_zeroes(image, 2 * PER_BLOCK, PER_BLOCK, 0);
    disk_flush(image);
    amend(options);
    look();
}

static void compact_space(void)
{
    compact_as("compact=space");
}

static void compact_zeroes(void)
{
    compact_as("compact=zeroes");
}

/* A longer log, whose old place gets a block, then a shorter one */
static void log_size(void)
{
    if (!begin()) {
        return;
    }
    amend("log_size=3M");
    look();
    disk_write(image, 9 * PER_BLOCK, 2 * PER_BLOCK, 20);
    disk_discard(image, 3 * PER_BLOCK, PER_BLOCK);
    disk_flush(image);
    amend("log_size=1M");
    look();
    disk_write(image, 11 * PER_BLOCK, PER_BLOCK, 21);
    disk_flush(image);
    look();
}

/* So many blocks have a place. */
static unsigned count_places(void)
{
    BdrvCheckResult result = { 0 };

    g_assert_cmpint(bdrv_check(blk_bs(image), &result, 0), ==, 0);
    return result.bfi.allocated_clusters;
}

/*
 * An image whose free space holds old data is made fixed.  If that fails for
 * want of space, with the one request that fails, all is as it was, unless it
 * is a flush: then no more is written.
 */
static void make_fixed(void)
{
    unsigned before, after;
    bool fixed;

    if (!begin()) {
        return;
    }
    disk_discard(image, 0, PER_BLOCK);
    disk_flush(image);
    fault.armed = false;
    before = count_places();
    fault.armed = true;
    fixed = amend("subformat=fixed");
    look();
    if ((fault.way == NO_SPACE || !fault.hit) &&
        !vhdx_change_is_broken(blk_bs(image)->opaque)) {
        fault.armed = false;
        after = count_places();
        fault.armed = true;
        g_assert_cmpuint(after, ==, fixed ? DISK_SIZE / BLOCK : before);
    }
    disk_write(image, 9 * PER_BLOCK + 2, 2, 20);
    disk_discard(image, 4 * PER_BLOCK, PER_BLOCK);
    disk_flush(image);
    look();
}

static void make_dynamic(void)
{
    if (!begin()) {
        return;
    }
    amend("subformat=dynamic");
    disk_discard(image, 4 * PER_BLOCK, PER_BLOCK);
    disk_flush(image);
    look();
}

/* The first change since the image was opened */
static void compact_at_once(void)
{
    if (begin()) {
        amend("compact=zeroes");
        look();
    }
}

static void amend_at_once(void)
{
    if (begin()) {
        amend("physical_sector_size=512");
        look();
    }
}

static void repair(void)
{
    BdrvCheckResult result = { 0 };

    if (begin()) {
        bdrv_check(blk_bs(image), &result, BDRV_FIX_ERRORS | BDRV_FIX_LEAKS);
        look();
    }
}

/* Opened in another way, and written to before and after that */
static void reopen(void)
{
    QDict *options = qdict_new();

    if (!begin()) {
        qobject_unref(options);
        return;
    }
    disk_write(image, 9 * PER_BLOCK, PER_BLOCK, 20);
    qdict_put_int(options, "cache-size", 2 * MiB);
    if (bdrv_reopen(blk_bs(image), options, true, NULL) == 0) {
        /* That makes stable what there is. */
        disk_is_stable();
    }
    look();
    disk_write(image, 10 * PER_BLOCK, PER_BLOCK, 21);
    disk_flush(image);
    look();
}

static void commit(void)
{
    if (begin()) {
        bdrv_commit(blk_bs(image));
        look();
        disk_write(image, 5 * PER_BLOCK, 4, 20);
        disk_flush(image);
        look();
    }
}

/* The child becomes an image without a parent. */
static void flatten(void)
{
    if (!begin()) {
        return;
    }
    bdrv_change_backing_file(blk_bs(image), NULL, NULL, false);
    look();
    disk_write(image, 5 * PER_BLOCK + 1, 2, 21);
    disk_flush(image);
    look();
}

/* -- A new image -- */

/* Make an image with @prealloc on the empty node; returns whether it worked. */
static bool create_on_node(PreallocMode prealloc)
{
    QDict *options = qdict_new();
    BlockdevRef file = {
        .type = QTYPE_QSTRING,
        .u.reference = (char *)"file",
    };
    BlockdevCreateOptions create = {
        .driver = BLOCKDEV_DRIVER_VHDX,
        .u.vhdx = {
            .file = &file,
            .has_size = true,
            .size = DISK_SIZE,
            .has_block_size = true,
            .block_size = BLOCK,
            .has_subformat = is_fixed,
            .subformat = BLOCKDEV_VHDX_SUBFORMAT_FIXED,
            .has_preallocation = true,
            .preallocation = prealloc,
        },
    };
    BlockDriverState *bs;
    Error *err = NULL;
    int ret;

    qdict_put_str(options, "driver", "vhdx-test-memory");
    qdict_put_str(options, "node-name", "file");
    qdict_put_int(options, "number", IMAGE);
    bs = bdrv_open(NULL, NULL, options, BDRV_O_RDWR | BDRV_O_RESIZE, NULL);
    if (!bs) {
        return false;
    }
    ret = blockdev_create(&create, &err);
    g_assert_cmpint(ret < 0, ==, err != NULL);
    error_free(err);
    bdrv_unref(bs);
    return ret >= 0;
}

static bool image_opens(void)
{
    image = image_open(0, NULL);
    return image;
}

/*
 * Make an image, with a request that fails.  What that leaves is no image at
 * all, or a good one; it can be made then.
 */
static void create_with_fault(unsigned at, Way way, PreallocMode prealloc)
{
    bool made;

    run_begin(at, way);
    made = create_on_node(prealloc);
    fault.armed = false;
    g_assert_true(made || fault.hit);
    if (image_opens()) {
        disk_check(image, false, false);
        check_is_sound();
        end();
    } else {
        g_assert_false(made);
        g_assert_true(create_on_node(prealloc));
        g_assert_true(image_opens());
        disk_check(image, false, false);
        end();
    }
}

static void create_each(PreallocMode prealloc)
{
    /* Where the file has something else before */
    memset(files[IMAGE].data, 0x55, MiB);
    files[IMAGE].size = MiB;
    files_keep();
    for (unsigned way = 0; way < WAYS; way++) {
        unsigned at = 0;

        do {
            create_with_fault(at++, way, prealloc);
        } while (fault.hit);
        g_assert_cmpuint(fault.calls, >=, 10);
    }
    is_fixed = false;
}

/* -- Tests -- */

static void test_create(void)
{
    disk_reset();
    create_each(PREALLOC_MODE_OFF);
}

static void test_create_fixed(void)
{
    disk_reset();
    is_fixed = true;
    create_each(PREALLOC_MODE_FULL);
}

/* It writes zeros where the node has no preallocation. */
static void test_create_written(void)
{
    disk_reset();
    is_fixed = no_prealloc = true;
    create_each(PREALLOC_MODE_FULL);
}

static void test_open(void)
{
    make_image();
    run_each(open_and_read, 10);
}

static void test_open_replay(void)
{
    make_image_with_log();
    run_each(open_and_read, 15);
}

static void test_open_to_read(void)
{
    make_image_with_log();
    run_each(open_to_read, 10);
}

static void test_first_write(void)
{
    make_image();
    run_each(write_once, 15);
}

static void test_requests(void)
{
    make_image();
    run_each(write_much, 50);
}

static void test_requests_replay(void)
{
    make_image_with_log();
    run_each(write_much, 50);
}

static void test_resize(void)
{
    make_image();
    run_each(resize, 50);
}

static void test_resize_fixed(void)
{
    is_fixed = true;
    make_image();
    is_fixed = false;
    run_each(resize_fixed, 50);
}

static void test_compact(void)
{
    make_image();
    run_each(compact_space, 50);
}

static void test_compact_zeroes(void)
{
    make_image();
    run_each(compact_zeroes, 50);
}

/* ... where the log is needed */
static void test_compact_replay(void)
{
    make_image_with_log();
    run_each(compact_at_once, 30);
}

static void test_compact_region(void)
{
    make_image_with_region();
    run_each(compact_space, 50);
}

static void test_compact_region_at_once(void)
{
    make_image_with_region();
    run_each(compact_at_once, 30);
}

static void test_amend(void)
{
    make_image();
    run_each(amend_at_once, 10);
}

static void test_log_size(void)
{
    make_image();
    run_each(log_size, 50);
}

static void test_make_fixed(void)
{
    uint64_t place = 2 * MiB;
    unsigned at = 0;

    make_image();
    /* What block 3 leaves behind is old data in the midst of the file. */
    while (files[IMAGE].data[place] != 4) {
        place += MiB;
    }
    disk_discard(image, 3 * PER_BLOCK, PER_BLOCK);
    g_assert_cmpint(disk_flush(image), >=, 0);
    end();
    g_assert_cmpuint(place + MiB, <, files[IMAGE].size);
    memset(files[IMAGE].data + place, 0x55, MiB);
    run_each(make_fixed, 50);
    /* Each of them finds no space, in any case. */
    do {
        run(make_fixed, at++, NO_SPACE);
    } while (fault.hit);
}

static void test_make_dynamic(void)
{
    make_image();
    g_assert_true(amend("subformat=fixed"));
    run_each(make_dynamic, 20);
}

/* A header copy is torn, there is space that nothing uses, and a log. */
static void test_repair(void)
{
    make_image_with_log();
    memset(files[IMAGE].data + 64 * KiB + 100, 0x55, 100);
    file_set_size(IMAGE, files[IMAGE].size + 3 * MiB);
    is_damaged = true;
    run_each(repair, 30);
}

/* Tables that have no copy in a log: what is odd there, and a damaged copy */
static void test_repair_tables(void)
{
    uint8_t *f = files[IMAGE].data, *metadata = f + 3 * MiB, *bat = f + 2 * MiB;

    make_image();
    end();
    memset(f + 192 * KiB + 100, 0x55, 100);
    g_assert_cmpmem(metadata, 8, "metadata", 8);
    put_le(metadata + 8, 1, 2);
    put_le(metadata + 12, 2, 4);
    put_le(metadata + 32 + 28, 3, 4);
    /* The entry of a block of zeros keeps what is none of its own. */
    g_assert_cmpint(get_le(bat + 8 * 12, 8), <, 8);
    put_le(bat + 8 * 12, MiB | 2, 8);
    is_damaged = true;
    g_assert_true(begin());
    run_each(repair, 30);
}

static void test_reopen(void)
{
    make_image();
    run_each(reopen, 20);
}

static void test_chain_open(void)
{
    make_chain_with_far_items();
    run_each(open_and_read, 15);
    /* Each of them in each way: there are few. */
    for (unsigned way = 0; way < WAYS; way++) {
        unsigned at = 0;

        do {
            run(open_and_read, at++, way);
        } while (fault.hit);
    }
}

static void test_chain_requests(void)
{
    make_chain();
    run_each(write_much, 50);
}

static void test_chain_commit(void)
{
    make_chain();
    run_each(commit, 50);
}

static void test_chain_compact(void)
{
    make_chain();
    run_each(compact_space, 50);
}

static void test_chain_log_size(void)
{
    make_chain();
    run_each(log_size, 50);
}

static void test_chain_resize(void)
{
    make_chain();
    run_each(resize, 50);
}

static void test_chain_flatten(void)
{
    make_empty_chain();
    is_flattened = true;
    run_each(flatten, 50);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*test)(void);
    } tests[] = {
        { "create", test_create },
        { "create-fixed", test_create_fixed },
        { "create-written", test_create_written },
        { "open", test_open },
        { "open-replay", test_open_replay },
        { "open-to-read", test_open_to_read },
        { "first-write", test_first_write },
        { "requests", test_requests },
        { "requests-replay", test_requests_replay },
        { "resize", test_resize },
        { "resize-fixed", test_resize_fixed },
        { "compact", test_compact },
        { "compact-zeroes", test_compact_zeroes },
        { "compact-replay", test_compact_replay },
        { "compact-region", test_compact_region },
        { "compact-region-at-once", test_compact_region_at_once },
        { "log-size", test_log_size },
        { "make-fixed", test_make_fixed },
        { "make-dynamic", test_make_dynamic },
        { "repair", test_repair },
        { "repair-tables", test_repair_tables },
        { "amend", test_amend },
        { "reopen", test_reopen },
        { "chain-open", test_chain_open },
        { "chain-requests", test_chain_requests },
        { "chain-commit", test_chain_commit },
        { "chain-compact", test_chain_compact },
        { "chain-log-size", test_chain_log_size },
        { "chain-resize", test_chain_resize },
        { "chain-flatten", test_chain_flatten },
    };
    int ret;

    g_test_init(&argc, &argv, NULL);
    bdrv_init();
    bdrv_register(&bdrv_memory);
    qemu_init_main_loop(&error_abort);
    test_dir = g_dir_make_tmp("vhdx-test-XXXXXX", NULL);
    g_assert_nonnull(test_dir);
    for (unsigned i = 0; i < FILES; i++) {
        paths[i] = g_build_filename(test_dir, i == PARENT ? "parent.vhdx" :
                                    "image.vhdx", NULL);
        files[i].data = g_malloc0(FILE_MAX);
        before[i].data = g_malloc0(FILE_MAX);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(tests); i++) {
        g_autofree char *name = g_strdup_printf("/vhdx/every-call/%s",
                                                tests[i].name);

        g_test_add_func(name, tests[i].test);
    }
    ret = g_test_run();

    for (unsigned i = 0; i < FILES; i++) {
        g_free(paths[i]);
        g_free(files[i].data);
        g_free(before[i].data);
    }
    rmdir(test_dir);
    g_free(test_dir);
    return ret;
}
