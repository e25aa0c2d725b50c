/*
 * VHDX unit tests: opening the image of vhdx-test-image.h
 *
 * The image is stored in a file and opened through the block layer.  Opening
 * must never write, so most checks compare the file with what was stored.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef TESTS_UNIT_VHDX_TEST_OPEN_H
#define TESTS_UNIT_VHDX_TEST_OPEN_H

#include "block/vhdx/compat.h"
#include "qemu/main-loop.h"
#include "vhdx-test-image.h"

/* The numbers go over 32 bits within a test. */
#define SEQ         0xfffffffeULL
#define SECTOR      4096

/* The file that the images of a program are stored in. */
static char *test_dir;
static char *test_path;

static inline void test_open_init(void)
{
    bdrv_init();
    qemu_init_main_loop(&error_abort);
    test_dir = g_dir_make_tmp("vhdx-test-XXXXXX", NULL);
    g_assert_nonnull(test_dir);
    test_path = g_build_filename(test_dir, "image.vhdx", NULL);
}

static inline void test_open_finish(void)
{
    unlink(test_path);
    rmdir(test_dir);
    g_free(test_path);
    g_free(test_dir);
}

static inline BlockBackend *open_image(int flags, Error **errp)
{
    QDict *options = qdict_new();

    qdict_put_str(options, "driver", "vhdx");
    return blk_new_open(test_path, NULL, options, flags, errp);
}

static inline void store(const Image *img)
{
    FILE *file = fopen(test_path, "w");

    g_assert_nonnull(file);
    g_assert_cmpint(fwrite(img->file, 1, IMAGE_SIZE, file), ==, IMAGE_SIZE);
    g_assert_cmpint(fclose(file), ==, 0);
}

static inline void check_unchanged(const Image *img)
{
    g_autofree char *now = NULL;
    gsize length;

    g_assert_true(g_file_get_contents(test_path, &now, &length, NULL));
    g_assert_cmpmem(now, length, img->file, IMAGE_SIZE);
}

/* What the guest should see: two blocks, and two that are zeros. */
static inline uint8_t *disk_of(const Image *img)
{
    uint8_t *disk = g_malloc0(IMAGE_DISK);

    memcpy(disk, img->view + IMAGE_BLOCKS, 2 * MiB);
    return disk;
}

/* Check that @blk reads as @disk, in one request and in odd pieces. */
static inline void check_disk(BlockBackend *blk, const uint8_t *disk)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(10);
    g_autofree uint8_t *got = g_malloc(IMAGE_DISK);

    g_assert_cmpint(blk_getlength(blk), ==, IMAGE_DISK);
    g_assert_cmpint(blk_pread(blk, 0, IMAGE_DISK, got, 0), >=, 0);
    g_assert_cmpmem(got, IMAGE_DISK, disk, IMAGE_DISK);
    for (int i = 0; i < 50; i++) {
        uint64_t at = g_rand_int_range(rand, 0, 2 * MiB / 512) * 512;
        uint64_t bytes = g_rand_int_range(rand, 1, 40) * 512;

        g_assert_cmpint(blk_pread(blk, at, bytes, got, 0), >=, 0);
        g_assert_cmpmem(got, bytes, disk + at, bytes);
    }
}

/* The image opens and reads as its view says; nothing is written. */
static inline void check_reads(const Image *img)
{
    g_autofree uint8_t *disk = disk_of(img);
    static const int flags[] = { 0, BDRV_O_RDWR };

    store(img);
    for (size_t i = 0; i < G_N_ELEMENTS(flags); i++) {
        BlockBackend *blk = open_image(flags[i], &error_abort);

        check_disk(blk, disk);
        check_unchanged(img);
        blk_unref(blk);
        check_unchanged(img);
    }
}

static inline void check_refused(const Image *img, const char *name,
                                 const char *value)
{
    static const int flags[] = { 0, BDRV_O_RDWR };

    store(img);
    for (size_t i = 0; i < G_N_ELEMENTS(flags); i++) {
        Error *err = NULL;

        g_assert_null(open_image(flags[i], &err));
        expect_error(err, name, value);
        check_unchanged(img);
    }
}

/* No sequence counts. */
static inline void check_no_sequence(const Image *img)
{
    check_refused(img, "sequence", IMAGE_LOG_GUID);
}

/*
 * One write makes the replay permanent: afterwards the file itself holds what
 * before was in the log, and names no log any more.
 */
static inline void check_permanent(const Image *img)
{
    const uint64_t at = MiB + 512;
    g_autofree uint8_t *disk = disk_of(img);
    g_autofree char *now = NULL;
    BlockBackend *blk;
    gsize length;

    store(img);
    memset(disk + at, 0x77, 512);
    blk = open_image(BDRV_O_RDWR, &error_abort);
    g_assert_cmpint(blk_pwrite(blk, at, 512, disk + at, 0), >=, 0);
    check_disk(blk, disk);
    blk_unref(blk);

    g_assert_true(g_file_get_contents(test_path, &now, &length, NULL));
    g_assert_cmpint(length, ==, IMAGE_SIZE);
    g_assert_cmpmem(now + IMAGE_BLOCKS, 2 * MiB, disk, 2 * MiB);
    for (int copy = 0; copy < 2; copy++) {
        const uint8_t *header = (uint8_t *)now + (copy + 1) * 64 * KiB;
        static const uint8_t nil[16];

        g_assert_cmpint(get_le(header + 8, 8), >, 8);
        g_assert_cmpmem(header + 48, 16, nil, 16);
    }
    blk = open_image(0, &error_abort);
    check_disk(blk, disk);
    blk_unref(blk);
}

/* -- Entries -- */

static inline EntrySpec spec_of(uint64_t sequence, uint32_t tail)
{
    return (EntrySpec) {
        .guid = IMAGE_LOG_GUID,
        .sequence = sequence,
        .tail = tail,
        .flushed = IMAGE_SIZE,
        .last = IMAGE_SIZE,
    };
}

/* An entry of two sectors at @pos that fills page @page with @fill. */
static inline uint32_t put_page(Image *img, uint32_t pos, uint64_t sequence,
                                uint32_t tail, unsigned page, uint8_t fill)
{
    const EntrySpec spec = spec_of(sequence, tail);
    const Update update = { page_at(page), page_of(fill) };

    return log_put(img, pos, &spec, &update, 1);
}

/* That entry should take effect. */
static inline void view_page(Image *img, unsigned page, uint8_t fill)
{
    memcpy(img->view + page_at(page), page_of(fill), 4096);
}

#endif
