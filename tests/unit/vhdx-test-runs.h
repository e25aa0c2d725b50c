/*
 * VHDX unit tests: runs in which one request fails
 *
 * What the disk holds is told by cells, each of which is full of one of 32
 * numbers, and may be one of several where a request has failed.  A run begins
 * with an image as it was made, or a chain of two, and ends with a look at what
 * has become of it.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef TESTS_UNIT_VHDX_TEST_RUNS_H
#define TESTS_UNIT_VHDX_TEST_RUNS_H

#include "qemu/main-loop.h"
#include "block/vhdx/change.h"
#include "vhdx-test-create.h"
#include "vhdx-test-memory.h"
#include "vhdx-test-request.h"
#include "vhdx-test-util.h"

#define BLOCK       MiB
#define DISK_SIZE   (16 * MiB)
#define CELLS       320                 /* of a disk that has got longer */
#define PER_BLOCK   (BLOCK / CELL)

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

static inline void disk_truncate(BlockBackend *blk, uint64_t size)
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
        unsigned bytes = MIN(BLOCK, size - at);
        int ret = blk_pread(blk, at, bytes, buf, 0);

        if (ret < 0 && may_fail) {
            /* It is read if one tries again, unless the file is gone. */
            ret = blk_pread(blk, at, bytes, buf, 0);
            if (ret < 0 && fault.way == DEAD) {
                continue;
            }
        }
        g_assert_cmpint(ret, >=, 0);
        for (unsigned i = 0; i < bytes; i += 512) {
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

/* Whether each request fails in all ways */
static bool all_ways;

/* What else is looked at once a run is over, in which a request has @hit */
static void (*look_after)(bool hit);

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
    if (look_after) {
        look_after(hit);
    }
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
 * Do @scenario for each request that there is: as it fails for want of space,
 * and in one of the ways of an I/O error after the other, or in all of them
 * where @all_ways is set or time does not matter (-m slow).  To look at one
 * request, begin with it: VHDX_TEST_CALL is its number.
 */
static void run_each(void (*scenario)(void), unsigned least)
{
    static const Way errors[] = { REFUSED, DONE, DEAD };
    const char *call = getenv("VHDX_TEST_CALL");
    unsigned at = call ? atoi(call) : 0;
    unsigned runs = 0;

    end();
    files_keep();
    disk_before = disk;
    do {
        unsigned count = all_ways || g_test_slow() ? ARRAY_SIZE(errors) : 1;

        for (unsigned i = 0; i < count; i++) {
            run(scenario, at, errors[(at + i) % ARRAY_SIZE(errors)]);
        }
        run(scenario, at, NO_SPACE);
        runs += count + 1;
        at++;
    } while (fault.hit);
    /* Nothing has failed in the last one, which had all requests. */
    g_assert_cmpuint(fault.calls, >=, least);
    g_test_message("%u runs, %u requests", runs, fault.calls);
}

/* -- What may be done in a run -- */

static void look(void)
{
    disk_check(image, false, true);
}

/* As qemu-img amend does with -o @options; returns whether that has worked. */
static bool amend(const char *options)
{
    return amend_image(image, options, NULL) >= 0;
}

/* There are gaps between the blocks of an image, and a block of zeros. */
static inline bool begin_with_gaps(void)
{
    if (!begin()) {
        return false;
    }
    disk_discard(image, 0, PER_BLOCK);
    disk_discard(image, 3 * PER_BLOCK, PER_BLOCK);
    disk_write_zeroes(image, 2 * PER_BLOCK, PER_BLOCK, 0);
    disk_flush(image);
    return true;
}

static inline void compact_as(const char *options)
{
    if (begin_with_gaps()) {
        amend(options);
        look();
    }
}

static inline void compact_space(void)
{
    compact_as("compact=space");
}

/* So many blocks have a place. */
static inline unsigned count_places(void)
{
    BdrvCheckResult result = { 0 };

    g_assert_cmpint(bdrv_check(blk_bs(image), &result, 0), ==, 0);
    return result.bfi.allocated_clusters;
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
static inline void make_empty_chain(void)
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
static inline void make_chain_with_far_items(void)
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

/* -- The program -- */

typedef struct RunTest {
    const char *name;
    void (*test)(void);
} RunTest;

/* Do @count tests, whose names begin with @prefix.  Returns as main() does. */
static int runs_main(int argc, char **argv, const char *prefix,
                     const RunTest *tests, unsigned count)
{
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
    for (unsigned i = 0; i < count; i++) {
        g_autofree char *name = g_strdup_printf("/vhdx/%s/%s", prefix,
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

#endif
