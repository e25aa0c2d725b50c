/*
 * VHDX unit tests: opening good, damaged and wrong images
 *
 * The image of vhdx-test-image.h, with a clean log, is spoiled in one place and
 * opened.  Where there is a second copy it must serve; elsewhere the image must
 * be refused with a message that says what is wrong.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/state.h"
#include "vhdx-test-open.h"
#include "vhdx-test-request.h"

#define GUID_NIL    "00000000-0000-0000-0000-000000000000"
#define UNKNOWN     "00112233-4455-6677-8899-AABBCCDDEEFF"

#define HEADER_1    (64 * KiB)
#define HEADER_2    (128 * KiB)
#define REGIONS_1   (192 * KiB)
#define REGIONS_2   (256 * KiB)

static Image *image_clean(void)
{
    Image *img = image_new();

    image_header(img->file + HEADER_1, 7, GUID_NIL);
    image_header(img->file + HEADER_2, 8, GUID_NIL);
    return img;
}

static void test_clean(void)
{
    Image *img = image_clean();

    check_reads(img);
    check_permanent(img);
    image_free(img);
}

/* -- The file identifier -- */

static void test_signature(void)
{
    Image *img = image_clean();

    img->file[7] = 'E';
    check_refused(img, "VHDX", "");
    image_free(img);
}

/* No creator is a reason to refuse, or changes anything. */
static void test_creator(void)
{
    Image *img = image_clean();

    memset(img->file + 8, 0xff, 64 * KiB - 8);
    check_reads(img);
    for (int i = 0; i < 256; i++) {
        put_le(img->file + 8 + 2 * i, 0xd83d, 2);
    }
    check_reads(img);
    image_free(img);
}

/* -- Headers -- */

static void test_header_damaged(void)
{
    Image *img = image_clean();

    img->file[HEADER_1 + 4000] ^= 1;
    check_reads(img);
    check_permanent(img);
    img->file[HEADER_1 + 4000] ^= 1;
    img->file[HEADER_2] ^= 1;
    check_reads(img);
    check_permanent(img);
    img->file[HEADER_1] ^= 1;
    check_refused(img, "header", "");
    image_free(img);
}

static void test_header_same_number(void)
{
    Image *img = image_clean();

    image_header(img->file + HEADER_1, 8, GUID_NIL);
    check_reads(img);
    img->file[HEADER_1 + 16] ^= 1;
    seal(img->file + HEADER_1, 4096);
    check_refused(img, "SequenceNumber", "8");
    image_free(img);
}

/* Only the current header says whether there is a log. */
static void test_header_old_log(void)
{
    Image *img = image_clean();

    image_header(img->file + HEADER_1, 7, IMAGE_LOG_GUID);
    check_reads(img);
    image_header(img->file + HEADER_1, 9, IMAGE_LOG_GUID);
    check_no_sequence(img);
    image_free(img);
}

static void test_header_fields(void)
{
    static const struct {
        int at;
        int bytes;
        uint64_t value;
        const char *name;
        const char *text;
    } bad[] = {
        { 66, 2, 2, "Version", "2" },
        { 68, 4, 512, "LogLength", "512" },
        { 68, 4, MiB + 4096, "LogLength", "1052672" },
        { 72, 8, 0, "LogOffset", "0" },
        { 72, 8, MiB + 4096, "LogOffset", "1052672" },
        { 72, 8, 0xfffffffffff00000, "LogOffset", "18446744073708503040" },
        { 72, 8, IMAGE_BAT, "log", "3145728" },     /* on top of the BAT */
    };
    Image *img = image_clean();

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        uint8_t *header = img->file + HEADER_2;

        image_header(header, 8, GUID_NIL);
        put_le(header + bad[i].at, bad[i].value, bad[i].bytes);
        seal(header, 4096);
        check_refused(img, bad[i].name, bad[i].text);
    }
    image_free(img);
}

/* Without a log nothing can be written, but there is nothing to replay. */
static void test_log_missing(void)
{
    Image *img = image_clean();
    Error *err = NULL;
    BlockBackend *blk;

    put_le(img->file + HEADER_2 + 68, 0, 4);
    put_le(img->file + HEADER_2 + 72, 0, 8);
    seal(img->file + HEADER_2, 4096);
    store(img);
    blk = open_image(0, &error_abort);
    blk_unref(blk);
    g_assert_null(open_image(BDRV_O_RDWR, &err));
    expect_error(err, "LogLength 0", "read-only");
    /* in use */
    image_header(img->file + HEADER_2, 8, IMAGE_LOG_GUID);
    put_le(img->file + HEADER_2 + 68, 0, 4);
    seal(img->file + HEADER_2, 4096);
    check_refused(img, "LogLength", "0");
    image_free(img);
}

static void test_log_version(void)
{
    Image *img = image_clean();

    put_le(img->file + HEADER_2 + 64, 1, 2);
    seal(img->file + HEADER_2, 4096);
    check_reads(img);
    image_header(img->file + HEADER_2, 8, IMAGE_LOG_GUID);
    put_le(img->file + HEADER_2 + 64, 1, 2);
    seal(img->file + HEADER_2, 4096);
    put_page(img, 0, SEQ, 0, 1, 0x11);
    check_refused(img, "LogVersion", "1");
    image_free(img);
}

/* -- Region tables -- */

static void test_regions_damaged(void)
{
    for (int copy = 0; copy < 2; copy++) {
        Image *img = image_clean();
        g_autofree char *now = NULL;

        img->file[(copy ? REGIONS_2 : REGIONS_1) + 60000] ^= 1;
        check_reads(img);
        check_permanent(img);
        /* that has mended the damaged copy */
        g_assert_true(g_file_get_contents(test_path, &now, NULL, NULL));
        g_assert_cmpmem(now + REGIONS_1, 64 * KiB, img->view + REGIONS_1,
                        64 * KiB);
        g_assert_cmpmem(now + REGIONS_2, 64 * KiB, img->view + REGIONS_2,
                        64 * KiB);

        img->file[(copy ? REGIONS_1 : REGIONS_2) + 3] ^= 1;
        check_refused(img, "region table", "");
        image_free(img);
    }
}

static void test_regions_missing(void)
{
    Image *img = image_clean();

    for (int i = 0; i < 2; i++) {
        uint8_t *table = img->file + (i ? REGIONS_2 : REGIONS_1);

        put_guid(table + 16, UNKNOWN);
        put_le(table + 44, 0, 4);
        seal(table, 64 * KiB);
    }
    check_refused(img, "region", "BAT");
    image_free(img);
}

/* A region must lie within the file, to its last byte. */
static void test_regions_beyond(void)
{
    static const struct {
        int at;                     /* in the table */
        uint64_t value;
        int bytes;
        const char *name;
        const char *text;
    } bad[] = {
        { 32, 8 * MiB, 8, "BAT", "8388608" },
        { 32, 64 * TiB, 8, "BAT", "70368744177664" },
        { 40, 4 * MiB, 4, "BAT", "4194304" },
        { 64, 6 * MiB, 8, "metadata", "6291456" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        Image *img = image_clean();

        for (int copy = 0; copy < 2; copy++) {
            uint8_t *table = img->file + (copy ? REGIONS_2 : REGIONS_1);

            put_le(table + bad[i].at, bad[i].value, bad[i].bytes);
            seal(table, 64 * KiB);
        }
        check_refused(img, bad[i].name, bad[i].text);
        image_free(img);
    }
}

static void test_bat_small(void)
{
    Image *img = image_clean();

    /* 64 TiB in blocks of 1 MiB, and a BAT region of 1 MiB */
    put_le(img->file + IMAGE_METADATA + 64 * KiB + 16, 64 * TiB, 8);
    check_refused(img, "BAT", "67125247");
    image_free(img);
}

/* -- Metadata items -- */

static const char *const item_names[5] = {
    "File Parameters", "Virtual Disk Size", "Virtual Disk ID",
    "Logical Sector Size", "Physical Sector Size"
};

static uint8_t *item_entry(Image *img, int item)
{
    return img->file + IMAGE_METADATA + 32 + 32 * item;
}

static void test_items_missing(void)
{
    for (int item = 0; item < 5; item++) {
        Image *img = image_clean();

        put_guid(item_entry(img, item), UNKNOWN);
        put_le(item_entry(img, item) + 24, 0, 4);
        check_refused(img, item_names[item], "missing");
        image_free(img);
    }
}

/* A check reads the table anew: another program may have changed it. */
static void test_items_gone(void)
{
    for (int item = 0; item < 5; item++) {
        Image *img = image_clean();
        BdrvCheckResult result = { 0 };
        BlockBackend *blk;

        store(img);
        blk = open_image(0, &error_abort);
        put_guid(item_entry(img, item), UNKNOWN);
        put_le(item_entry(img, item) + 24, 0, 4);
        store(img);
        g_assert_cmpint(bdrv_check(blk_bs(blk), &result, 0), ==,
                        item == 0 ? -EINVAL : 0);
        blk_unref(blk);
        image_free(img);
    }
}

static void test_items_length(void)
{
    for (int item = 0; item < 5; item++) {
        static const uint32_t bad[] = { 2, 12, 64 * KiB };

        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
            Image *img = image_clean();
            g_autofree char *value = g_strdup_printf("%" PRIu32, bad[i]);

            /* where it is on top of no other item */
            put_le(item_entry(img, item) + 16, 512 * KiB, 4);
            put_le(item_entry(img, item) + 20, bad[i], 4);
            check_refused(img, item_names[item], value);
            image_free(img);
        }
    }
}

static void test_items_content(void)
{
    static const struct {
        int item;
        uint64_t value;
        int bytes;
        const char *name;
    } bad[] = {
        { 0, 0, 4, "BlockSize" }, { 0, 3 * MiB, 4, "BlockSize" },
        { 0, 512 * MiB, 4, "BlockSize" },
        { 1, IMAGE_DISK + 100, 8, "DiskSize" },
        { 1, 64 * TiB + 512, 8, "DiskSize" }, { 1, UINT64_MAX, 8, "DiskSize" },
        { 3, 0, 4, "LogicalSectorSize" }, { 3, 1024, 4, "LogicalSectorSize" },
        { 4, 0, 4, "PhysicalSectorSize" }, { 4, 513, 4, "PhysicalSectorSize" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        Image *img = image_clean();
        g_autofree char *value = g_strdup_printf("%" PRIu64, bad[i].value);

        put_le(img->file + IMAGE_METADATA + 64 * KiB + 16 * bad[i].item,
               bad[i].value, bad[i].bytes);
        check_refused(img, bad[i].name, value);
        image_free(img);
    }
}

static void test_items_unknown(void)
{
    Image *img = image_clean();
    uint8_t *metadata = img->file + IMAGE_METADATA;

    image_item(metadata, UNKNOWN, 0, 0x1234, 8);
    check_reads(img);
    put_le(item_entry(img, 5) + 24, 4, 4);
    check_refused(img, "required", UNKNOWN);
    put_guid(item_entry(img, 5), GUID_UNFINISHED);
    check_refused(img, "interrupted", "");
    image_free(img);
}

/* -- Files that are too short -- */

static void test_truncated(void)
{
    static const uint32_t sizes[] = {
        0, 1, 8, 64 * KiB, 64 * KiB + 100, 129 * KiB, 200 * KiB, MiB,
        2 * MiB, 2 * MiB + 4096, 2 * MiB + 64 * KiB + 8
    };
    Image *img = image_clean();

    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        Error *err = NULL;

        store(img);
        g_assert_cmpint(truncate(test_path, sizes[i]), ==, 0);
        g_assert_null(open_image(BDRV_O_RDWR, &err));
        g_assert_nonnull(err);
        error_free(err);
    }
    image_free(img);
}

/* -- BAT entries -- */

static void test_states(void)
{
    static const uint64_t entries[] = {
        0, 1, 2, 3, 5, IMAGE_BLOCKS, IMAGE_BLOCKS + 1, IMAGE_BLOCKS + 2,
        IMAGE_BLOCKS + 3, IMAGE_BLOCKS + 5, 0xfffffffffff00001
    };
    Image *img = image_clean();

    memset(img->view + IMAGE_BLOCKS, 0, MiB);
    for (size_t i = 0; i < G_N_ELEMENTS(entries); i++) {
        put_le(img->file + IMAGE_BAT, entries[i], 8);
        check_reads(img);
    }
    image_free(img);
}

/* A bad entry does not keep the rest of the image from being read. */
static void test_bad_entry(void)
{
    static const uint64_t entries[] = {
        4, 6, 7, IMAGE_LOG + 6, IMAGE_BAT + 6, IMAGE_METADATA + 6,
        IMAGE_SIZE + 6, 0xfffffffffff00006, IMAGE_BLOCKS + 8 + 6
    };
    Image *img = image_clean();
    uint8_t sector[512];

    for (size_t i = 0; i < G_N_ELEMENTS(entries); i++) {
        BlockBackend *blk;

        put_le(img->file + IMAGE_BAT, entries[i], 8);
        store(img);
        blk = open_image(BDRV_O_RDWR, &error_abort);
        g_assert_cmpint(blk_pread(blk, 512, 512, sector, 0), ==, -EIO);
        g_assert_cmpint(blk_pwrite(blk, 512, 512, sector, 0), ==, -EIO);
        g_assert_cmpint(blk_pread(blk, MiB, 512, sector, 0), >=, 0);
        g_assert_cmpmem(sector, 512, img->file + IMAGE_BLOCKS + MiB, 512);
        g_assert_cmpint(blk_pread(blk, 2 * MiB, 512, sector, 0), >=, 0);
        blk_unref(blk);
    }
    image_free(img);
}

/* -- Options -- */

static void test_cache_size(void)
{
    Image *img = image_clean();
    static const char *const bad[] = { "x", "-1", "1Q", "" };

    store(img);
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        QDict *options = qdict_new();
        Error *err = NULL;

        qdict_put_str(options, "driver", "vhdx");
        qdict_put_str(options, "cache-size", bad[i]);
        g_assert_null(blk_new_open(test_path, NULL, options, 0, &err));
        expect_error(err, "cache-size", "");
    }
    image_free(img);
}

/* -- Metadata tables of many items -- */

/* A clean image with @count items, most of which are nothing to us */
static Image *image_of_items(unsigned count)
{
    Image *img = image_clean();
    uint8_t *metadata = img->file + IMAGE_METADATA;

    for (unsigned i = get_le(metadata + 10, 2); i < count; i++) {
        g_autofree char *guid =
            g_strdup_printf("00112233-4455-6677-8899-%012X", i);

        image_item(metadata, guid, 1, i, 8);
    }
    return img;
}

/* Let the disk have physical sectors of 512 bytes. */
static int amend(BlockBackend *blk, Error **errp)
{
    return amend_image(blk, "physical_sector_size=512", errp);
}

static uint32_t physical_sector(BlockBackend *blk)
{
    BDRVVHDXState *s = blk_bs(blk)->opaque;

    return s->params.physical_sector;
}

/* Items are changed in one write of a page: a table that fits into it. */
static void test_many_items(void)
{
    for (unsigned count = 127; count <= 128; count++) {
        Image *img = image_of_items(count);
        g_autofree uint8_t *disk = disk_of(img);
        BlockBackend *blk;
        Error *err = NULL;

        check_reads(img);
        blk = open_image(BDRV_O_RDWR, &error_abort);
        if (count == 127) {
            g_assert_cmpint(amend(blk, &error_abort), ==, 0);
        } else {
            g_assert_cmpint(amend(blk, &err), ==, -ENOTSUP);
            expect_error(err, "metadata table has 128 entries", "up to 127");
        }
        check_disk(blk, disk);
        blk_unref(blk);
        blk = open_image(0, &error_abort);
        g_assert_cmpuint(physical_sector(blk), ==, count == 127 ? 512 : 4096);
        check_disk(blk, disk);
        blk_unref(blk);
        image_free(img);
    }
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    test_open_init();

    g_test_add_func("/vhdx/open/clean", test_clean);
    g_test_add_func("/vhdx/open/file-id/signature", test_signature);
    g_test_add_func("/vhdx/open/file-id/creator", test_creator);
    g_test_add_func("/vhdx/open/header/damaged", test_header_damaged);
    g_test_add_func("/vhdx/open/header/same-number", test_header_same_number);
    g_test_add_func("/vhdx/open/header/old-log", test_header_old_log);
    g_test_add_func("/vhdx/open/header/bad-field", test_header_fields);
    g_test_add_func("/vhdx/open/header/no-log", test_log_missing);
    g_test_add_func("/vhdx/open/header/log-version", test_log_version);
    g_test_add_func("/vhdx/open/regions/damaged", test_regions_damaged);
    g_test_add_func("/vhdx/open/regions/missing", test_regions_missing);
    g_test_add_func("/vhdx/open/regions/beyond-end", test_regions_beyond);
    g_test_add_func("/vhdx/open/regions/bat-too-small", test_bat_small);
    g_test_add_func("/vhdx/open/items/missing", test_items_missing);
    g_test_add_func("/vhdx/open/items/gone", test_items_gone);
    g_test_add_func("/vhdx/open/items/bad-length", test_items_length);
    g_test_add_func("/vhdx/open/items/bad-content", test_items_content);
    g_test_add_func("/vhdx/open/items/unknown", test_items_unknown);
    g_test_add_func("/vhdx/open/truncated", test_truncated);
    g_test_add_func("/vhdx/open/bat/states", test_states);
    g_test_add_func("/vhdx/open/bat/bad-entry", test_bad_entry);
    g_test_add_func("/vhdx/open/cache-size", test_cache_size);
    g_test_add_func("/vhdx/open/many-items", test_many_items);
    ret = g_test_run();
    test_open_finish();
    return ret;
}
