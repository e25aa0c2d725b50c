/*
 * VHDX unit tests: planning and making new images
 *
 * A layout is judged by what must hold for any image: everything in its order,
 * aligned, nothing on top of another and no gap.  The number of BAT entries is
 * counted anew.  The freedom that -o has is tested by making images and reading
 * the result by hand.  A parent is the image of vhdx-test-image.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/compat.h"
#include "block/vhdx/options.h"
#include "qemu/main-loop.h"
#include "qemu/option.h"
#include "vhdx-test-create.h"
#include "vhdx-test-image.h"

static VHDXCreateOptions sample_options(void)
{
    return (VHDXCreateOptions) {
        .size = 64 * (uint64_t)GiB,
        .log_size = MiB,
        .block_size = 32 * MiB,
        .logical_sector = 512,
        .physical_sector = 4096,
        .block_state_zero = true,
        .disk_id = { { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 } },
    };
}

/* -- What must hold -- */

/* BAT entries of a disk without parent, chunk by chunk. */
static uint64_t slow_entries(uint64_t blocks, uint64_t block_size,
                             uint64_t sector)
{
    uint64_t chunk = 8 * MiB * sector / block_size;
    uint64_t entries = 0;

    while (blocks > chunk) {
        entries += chunk + 1;
        blocks -= chunk;
    }
    return entries + blocks;
}

static void check_layout(const VHDXCreateOptions *opts, const VHDXLayout *l)
{
    uint64_t block_size = l->params.block_size;
    uint64_t blocks = opts->size / block_size +
                      (opts->size % block_size ? 1 : 0);
    uint64_t entries = slow_entries(blocks, block_size, opts->logical_sector);
    uint64_t at = MiB;

    /* one object behind the other, each of whole MiBs, and at least one */
    g_assert_cmphex(l->log_offset, ==, at);
    g_assert_cmphex(l->log_length, ==, opts->log_size);
    at += l->log_length;
    g_assert_cmphex(l->bat_offset, ==, at);
    g_assert_cmpint(l->bat_length, >=, MiB);
    g_assert_cmpint(l->bat_length % MiB, ==, 0);
    at += l->bat_length;
    g_assert_cmphex(l->metadata_offset, ==, at);
    g_assert_cmpint(l->metadata_length, >=, MiB);
    g_assert_cmpint(l->metadata_length % MiB, ==, 0);
    g_assert_cmpint(l->metadata_length, >=, VHDX_METADATA_USED);
    at += l->metadata_length;
    g_assert_cmphex(l->first_block, ==, at);
    g_assert_cmphex(l->full_size, ==, at + blocks * block_size);
    g_assert_cmphex(l->file_size, ==, opts->fixed ? l->full_size : at);

    /* the BAT has its entries and less than a MiB more */
    g_assert_cmpint(l->bat_length, >=, entries * 8);
    if (entries) {
        g_assert_cmpint(l->bat_length, <, entries * 8 + MiB);
    }

    g_assert_cmphex(l->params.disk_size, ==, opts->size);
    if (opts->block_size) {
        g_assert_cmphex(block_size, ==, opts->block_size);
    }
    g_assert_cmpint(l->params.logical_sector, ==, opts->logical_sector);
    g_assert_cmpint(l->params.physical_sector, ==, opts->physical_sector);
    g_assert_cmpint(l->params.leave_allocated, ==, opts->fixed);
    g_assert_false(l->params.has_parent);
    g_assert_true(vhdx_guid_equal(&l->params.disk_id, &opts->disk_id));
    g_assert_cmpint(vhdx_params_check(&l->params, &error_abort), ==, 0);
    g_assert_cmpint(l->geo.blocks, ==, blocks);
    g_assert_cmpint(l->geo.bat_entries, ==, entries);
    g_assert_cmpint(l->state, ==, opts->fixed ? 6 :
                    opts->block_state_zero ? 2 : 0);
}

static void plan_and_check(const VHDXCreateOptions *opts)
{
    VHDXLayout layout;

    memset(&layout, 0xaa, sizeof(layout));
    g_assert_cmpint(vhdx_layout_plan(opts, &layout, &error_abort), ==, 0);
    check_layout(opts, &layout);
}

static void test_sizes(void)
{
    static const uint64_t sizes[] = {
        0, 4096, MiB - 4096, MiB, MiB + 4096, 256 * MiB, 4 * (uint64_t)GiB,
        4 * (uint64_t)GiB + 4096, 2040 * (uint64_t)GiB, 64 * TiB - 4096,
        64 * TiB
    };

    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        for (uint64_t block = MiB; block <= 256 * MiB; block *= 2) {
            for (int bits = 0; bits < 16; bits++) {
                VHDXCreateOptions opts = sample_options();

                opts.size = sizes[i];
                opts.block_size = block;
                opts.fixed = bits & 1;
                opts.block_state_zero = bits & 2;
                opts.logical_sector = bits & 4 ? 4096 : 512;
                opts.physical_sector = bits & 8 ? 4096 : 512;
                plan_and_check(&opts);
            }
        }
    }
}

static void test_random(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(13);

    for (int i = 0; i < 5000; i++) {
        VHDXCreateOptions opts = {
            .log_size = (1 + g_rand_int(rand) % 4095) * (uint64_t)MiB,
            .block_size = g_rand_int_range(rand, 0, 5) ?
                          MiB << g_rand_int_range(rand, 0, 9) : 0,
            .logical_sector = g_rand_boolean(rand) ? 512 : 4096,
            .physical_sector = g_rand_boolean(rand) ? 512 : 4096,
            .fixed = g_rand_boolean(rand),
            .block_state_zero = g_rand_boolean(rand),
        };

        /* sizes of all magnitudes */
        opts.size = (64 * TiB >> g_rand_int_range(rand, 0, 34)) -
                    rand64(rand) % 4096 * 4096;
        opts.size = MIN(opts.size, 64 * TiB) / 4096 * 4096;
        if (opts.logical_sector == 512) {
            opts.size -= MIN(opts.size, g_rand_int_range(rand, 0, 8) * 512);
        }
        rand_fill(rand, opts.disk_id.id, 16);
        plan_and_check(&opts);
    }
}

/* Numbers that are known. */
static void test_largest(void)
{
    VHDXCreateOptions opts = sample_options();
    VHDXLayout l;

    opts.size = 64 * TiB;
    opts.block_size = MiB;
    opts.log_size = 0xfff00000;
    opts.fixed = true;
    vhdx_layout_plan(&opts, &l, &error_abort);
    g_assert_cmphex(l.bat_offset, ==, 0x100000000);
    /* 8 * (2^26 + 2^14 - 1) bytes: 512 MiB and not quite 128 KiB */
    g_assert_cmphex(l.bat_length, ==, 513 * MiB);
    g_assert_cmphex(l.metadata_offset, ==, 0x120100000);
    g_assert_cmphex(l.first_block, ==, 0x120200000);
    g_assert_cmphex(l.full_size, ==, 0x400120200000);
    g_assert_cmphex(l.file_size, ==, 0x400120200000);
}

static void test_empty(void)
{
    for (int fixed = 0; fixed < 2; fixed++) {
        VHDXCreateOptions opts = sample_options();
        VHDXLayout l;

        opts.size = 0;
        opts.fixed = fixed;
        vhdx_layout_plan(&opts, &l, &error_abort);
        check_layout(&opts, &l);
        g_assert_cmpint(l.geo.blocks, ==, 0);
        g_assert_cmpint(l.geo.bat_entries, ==, 0);
        g_assert_cmphex(l.file_size, ==, 4 * MiB);
        g_assert_cmphex(l.full_size, ==, 4 * MiB);
    }
}

/* The block size that is chosen when none is given. */
static void test_default_block_size(void)
{
    static const struct {
        uint64_t size;
        unsigned mib;
    } known[] = {
        { 0, 8 }, { 512, 8 }, { GiB, 8 }, { GiB + 512, 16 },
        { 100 * (uint64_t)GiB, 16 }, { 100 * (uint64_t)GiB + 512, 32 },
        { 32 * TiB, 32 }, { 32 * TiB + 512, 64 }, { 64 * TiB, 64 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
        VHDXCreateOptions opts = sample_options();
        VHDXLayout layout;

        opts.size = known[i].size;
        opts.block_size = 0;
        vhdx_layout_plan(&opts, &layout, &error_abort);
        g_assert_cmpint(layout.params.block_size, ==, known[i].mib * MiB);
        check_layout(&opts, &layout);
    }
}

/* What is planned makes tables that the decoders take. */
static void test_tables(void)
{
    VHDXCreateOptions opts = sample_options();
    g_autofree uint8_t *buf = g_malloc(VHDX_REGION_TABLE_SIZE);
    g_autofree VHDXRegion *regions = NULL;
    VHDXRegion bat, metadata;
    uint8_t entry[16];
    uint32_t count;
    VHDXLayout l;

    opts.fixed = true;
    vhdx_layout_plan(&opts, &l, &error_abort);
    vhdx_region_table_encode((VHDXRegion[]) {
        { vhdx_region_bat, l.bat_offset, l.bat_length, 1 },
        { vhdx_region_metadata, l.metadata_offset, l.metadata_length, 1 },
    }, 2, buf);
    g_assert_cmpint(vhdx_region_table_decode(buf, l.log_offset, l.log_length,
                                             &regions, &count, &bat, &metadata,
                                             &error_abort), ==, 0);

    /* the last block ends where the file does; no entry comes behind it */
    vhdx_bat_fill(&l.geo, l.geo.bat_entries - 1, 2, l.state, l.first_block,
                  entry);
    g_assert_cmphex(get_le(entry, 8), ==, l.file_size - 32 * MiB + 6);
    g_assert_cmphex(get_le(entry + 8, 8), ==, 0);
}

/* -- Refusals -- */

static void refuse_plan(const VHDXCreateOptions *opts, const char *message)
{
    Error *err = NULL;
    VHDXLayout layout;

    g_assert_cmpint(vhdx_layout_plan(opts, &layout, &err), ==, -EINVAL);
    g_assert_cmpstr(error_get_pretty(err), ==, message);
    error_free(err);
}

static void test_bad_size(void)
{
    static const uint64_t bad[] = {
        64 * TiB + 512, 64 * TiB + 1, 0x8000000000000000, 0x7ffffffffffffe00,
        0xfffffffffffffe00, UINT64_MAX
    };
    VHDXCreateOptions opts = sample_options();
    VHDXLayout layout;

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        opts.size = bad[i];
        refuse_plan(&opts, "Image size too large; max of 64TB");
    }
    for (uint64_t sector = 512; sector <= 4096; sector *= 8) {
        Error *err = NULL;

        opts.logical_sector = sector;
        opts.size = GiB + sector / 2;
        g_assert_cmpint(vhdx_layout_plan(&opts, &layout, &err), ==, -EINVAL);
        expect_error(err, "size must be a multiple",
                     sector == 512 ? "512" : "4096");
    }
}

static void test_bad_block_size(void)
{
    static const struct {
        uint64_t size;
        const char *message;
    } bad[] = {
        { 128, "Block size must be a multiple of 1 MB" },
        { 512 * KiB, "Block size must be a multiple of 1 MB" },
        { 1234567, "Block size must be a multiple of 1 MB" },
        { MiB + 512, "Block size must be a multiple of 1 MB" },
        { 0x100000001, "Block size must be a multiple of 1 MB" },
        { 3 * MiB, "Block size must be a power of two" },
        { 255 * MiB, "Block size must be a power of two" },
        { 0x100100000, "Block size must be a power of two" },
        { 512 * MiB, "Block size must not exceed 268435456" },
        { 0x100000000, "Block size must not exceed 268435456" },
        { 0x8000000000000000, "Block size must not exceed 268435456" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        VHDXCreateOptions opts = sample_options();

        opts.block_size = bad[i].size;
        refuse_plan(&opts, bad[i].message);
    }
}

static void test_bad_log_size(void)
{
    static const struct {
        uint64_t size;
        const char *message;
    } bad[] = {
        { 0, "Log size must be a multiple of 1 MB" },
        { 128, "Log size must be a multiple of 1 MB" },
        { 1234567, "Log size must be a multiple of 1 MB" },
        { 0xffffffff, "Log size must be a multiple of 1 MB" },
        { 0x100000000, "Log size must be smaller than 4 GB" },
        { 0x100100000, "Log size must be smaller than 4 GB" },
        { 0xfffffffffff00000, "Log size must be smaller than 4 GB" },
    };
    VHDXCreateOptions opts = sample_options();

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        opts.log_size = bad[i].size;
        refuse_plan(&opts, bad[i].message);
    }
    opts.log_size = 0xfff00000;
    plan_and_check(&opts);
}

static void test_bad_sectors(void)
{
    static const uint64_t bad[] = {
        0, 1, 511, 513, 1024, 2048, 8192, 0x100000200, 0x100001000, UINT64_MAX
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *value = g_strdup_printf("%" PRIu64, bad[i]);
        VHDXCreateOptions opts = sample_options();
        VHDXLayout layout;
        Error *err = NULL;

        opts.logical_sector = bad[i];
        g_assert_cmpint(vhdx_layout_plan(&opts, &layout, &err), ==, -EINVAL);
        expect_error(err, "logical_sector_size", value);
        opts = sample_options();
        opts.physical_sector = bad[i];
        err = NULL;
        g_assert_cmpint(vhdx_layout_plan(&opts, &layout, &err), ==, -EINVAL);
        expect_error(err, "physical_sector_size", value);
    }
}

static void test_preallocation(void)
{
    for (int mode = PREALLOC_MODE_OFF; mode <= PREALLOC_MODE_FULL; mode++) {
        VHDXCreateOptions opts = sample_options();
        VHDXLayout layout;
        Error *err = NULL;

        opts.prealloc = mode;
        opts.fixed = true;
        plan_and_check(&opts);
        if (mode != PREALLOC_MODE_OFF) {
            opts.fixed = false;
            g_assert_cmpint(vhdx_layout_plan(&opts, &layout, &err), ==,
                            -EINVAL);
            expect_error(err, "prealloc", PreallocMode_str(mode));
        }
    }
}

/* -- Values as -o has them -- */

static char *image_path;

/* The content of the item @text in the image @buf, found by hand. */
static uint64_t item_of(const uint8_t *buf, const char *text)
{
    const uint8_t *metadata = NULL;
    uint8_t guid[16];

    put_guid(guid, GUID_REGION_METADATA);
    for (int i = 0; i < 2; i++) {
        const uint8_t *entry = buf + 192 * KiB + 16 + 32 * i;

        if (!memcmp(entry, guid, 16)) {
            metadata = buf + get_le(entry + 16, 8);
        }
    }
    g_assert_nonnull(metadata);
    put_guid(guid, text);
    for (int i = 0; i < 5; i++) {
        const uint8_t *entry = metadata + 32 + 32 * i;

        if (!memcmp(entry, guid, 16)) {
            return get_le(metadata + get_le(entry + 16, 4),
                          get_le(entry + 20, 4));
        }
    }
    g_assert_not_reached();
}

static void create(const char *options, uint64_t size, Error **errp)
{
    g_autofree char *copy = g_strdup(options);

    bdrv_img_create(image_path, "vhdx", NULL, NULL, copy, size, BDRV_O_RDWR,
                    true, errp);
}

static void test_rounding(void)
{
    static const struct {
        const char *options;
        uint64_t size;
        uint64_t disk_size;
        uint64_t block_size;
        uint64_t log_size;
    } known[] = {
        { "block_size=0", 64 * MiB, 64 * MiB, 8 * MiB, MiB },
        { "block_size=1", 64 * MiB, 64 * MiB, MiB, MiB },
        { "block_size=1048577", 64 * MiB, 64 * MiB, 2 * MiB, MiB },
        { "block_size=300M", 64 * MiB, 64 * MiB, 256 * MiB, MiB },
        { "block_size=8E", 64 * MiB, 64 * MiB, 256 * MiB, MiB },
        { "log_size=0", 64 * MiB, 64 * MiB, 8 * MiB, MiB },
        { "log_size=128", 64 * MiB, 64 * MiB, 8 * MiB, MiB },
        { "log_size=1234567", 64 * MiB, 64 * MiB, 8 * MiB, 2 * MiB },
        { "logical_sector_size=512", 1001, 1024, 8 * MiB, MiB },
        { "logical_sector_size=4096", 1001, 4096, 8 * MiB, MiB },
        { "logical_sector_size=4096", 0, 0, 8 * MiB, MiB },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
        g_autofree char *buf = NULL;
        const uint8_t *b;
        gsize length;

        create(known[i].options, known[i].size, &error_abort);
        g_assert_true(g_file_get_contents(image_path, &buf, &length, NULL));
        b = (uint8_t *)buf;
        g_assert_cmpint(length, ==, 3 * MiB + known[i].log_size);
        g_assert_cmpmem(b, 8, "vhdxfile", 8);
        g_assert_cmpint(get_le(b + 64 * KiB + 68, 4), ==, known[i].log_size);
        g_assert_cmpint(item_of(b, GUID_DISK_SIZE), ==, known[i].disk_size);
        g_assert_cmpint(item_of(b, GUID_FILE_PARAMETERS), ==,
                        known[i].block_size);
        unlink(image_path);
    }
}

/* What no rounding mends is refused, and no file is left behind. */
static void test_refused(void)
{
    static const struct {
        const char *options;
        uint64_t size;
        const char *message;
    } bad[] = {
        { "block_size=3M", 64 * MiB, "power of two" },
        { "block_size=2097153", 64 * MiB, "power of two" },
        { "log_size=4G", 64 * MiB, "smaller than 4 GB" },
        { "log_size=4294967295", 64 * MiB, "smaller than 4 GB" },
        { "logical_sector_size=1024", 64 * MiB, "1024" },
        { "subformat=dynamic", 64 * TiB + 1, "max of 64TB" },
        { "disk_id=12345", 64 * MiB, "12345" },
        { "subformat=odd", 64 * MiB, "odd" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        Error *err = NULL;

        create(bad[i].options, bad[i].size, &err);
        expect_error(err, bad[i].message, "");
        g_assert_cmpint(access(image_path, F_OK), ==, -1);
    }
}

/* -- A protocol that makes files and knows nothing of preallocation -- */

static int files_made;

static void nothing_there(const char *filename, QDict *options, Error **errp)
{
    error_setg(errp, "No such file");
}

static int coroutine_fn make_file(BlockDriver *drv, const char *filename,
                                  QemuOpts *opts, Error **errp)
{
    files_made++;
    error_setg(errp, "Made");
    return -EIO;
}

static QemuOptsList plain_opts = {
    .name = "vhdx-test-opts",
    .head = QTAILQ_HEAD_INITIALIZER(plain_opts.head),
    .desc = {
        { .name = BLOCK_OPT_SIZE, .type = QEMU_OPT_SIZE },
        { NULL }
    }
};

static BlockDriver plain_protocol = {
    .format_name            = "vhdx-test",
    .protocol_name          = "vhdx-test",
    .create_opts            = &plain_opts,
    .bdrv_parse_filename    = nothing_there,
    .bdrv_co_create_opts    = make_file,
};

/* What it can't do is known before there is a file, which it can't delete. */
static void test_no_falloc(void)
{
    static const struct {
        const char *mode;
        const char *message;
        int made;
    } known[] = {
        { "off", "Made", 1 },
        { "metadata", "Made", 1 },
        { "falloc", "no preallocation mode 'falloc'", 0 },
        { "full", "Made", 1 },
    };
    g_autofree char *old_path = image_path;

    bdrv_register(&plain_protocol);
    image_path = g_strdup("vhdx-test:image");
    for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
        g_autofree char *options = g_strdup_printf("subformat=fixed,"
                                                   "preallocation=%s",
                                                   known[i].mode);
        Error *err = NULL;

        files_made = 0;
        create(options, 64 * MiB, &err);
        expect_error(err, known[i].message, "");
        g_assert_cmpint(files_made, ==, known[i].made);
    }
    g_free(image_path);
    image_path = g_steal_pointer(&old_path);
}

/* -- Images with a parent -- */

static char *parent_path;

/* Make the parent, with so much metadata that a child has to take over. */
static void make_parent(uint32_t bytes)
{
    Image *img = image_new();

    /* No log */
    image_header(img->file + 128 * KiB, 8,
                 "00000000-0000-0000-0000-000000000000");
    image_item(img->file + IMAGE_METADATA,
               "00112233-4455-6677-8899-AABBCCDDEEFF", 2, 0x55, bytes);
    g_assert_true(g_file_set_contents(parent_path, (char *)img->file,
                                      IMAGE_SIZE, NULL));
    image_free(img);
}

static void create_child(const char *path, Error **errp)
{
    char options[] = "";

    bdrv_img_create(path, "vhdx", "parent.vhdx", "vhdx", options, -1,
                    BDRV_O_RDWR, true, errp);
}

/* The image at @path is a child of that, and has a disk of its size. */
static void check_child(const char *path)
{
    BlockBackend *blk;
    QDict *options = qdict_new();

    qdict_put_str(options, "driver", "vhdx");
    blk = blk_new_open(path, NULL, options, 0, &error_abort);
    g_assert_cmpint(blk_getlength(blk), ==, IMAGE_DISK);
    g_assert_cmpstr(blk_bs(blk)->backing_file, ==, "parent.vhdx");
    blk_unref(blk);
}

static void test_child_items(void)
{
    Error *err = NULL;

    make_parent(256 * KiB);
    create_child(image_path, &error_abort);
    check_child(image_path);
    unlink(image_path);
    make_parent(256 * KiB + 1);
    create_child(image_path, &err);
    expect_error(err, "more than 262144 bytes of metadata", "inherit");
    g_assert_cmpint(access(image_path, F_OK), ==, -1);
    unlink(parent_path);
}

/* A name that has a colon is no protocol's behind another colon. */
static void test_child_colon(void)
{
    g_autofree char *cwd = g_get_current_dir();
    g_autofree char *dir = g_path_get_dirname(image_path);

    g_assert_cmpint(chdir(dir), ==, 0);
    make_parent(16);
    create_child("file:nbd:child.vhdx", &error_abort);
    g_assert_cmpint(access("nbd:child.vhdx", F_OK), ==, 0);
    check_child("file:nbd:child.vhdx");
    unlink("nbd:child.vhdx");
    unlink(parent_path);
    g_assert_cmpint(chdir(cwd), ==, 0);
}

/* As blockdev-create does it on the node @node, without a size */
static int create_child_on(const char *node, Error **errp)
{
    BlockdevRef file = {
        .type = QTYPE_QSTRING,
        .u.reference = (char *)node,
    };
    BlockdevCreateOptions options = {
        .driver = BLOCKDEV_DRIVER_VHDX,
        .u.vhdx = {
            .file = &file,
            .backing_file = (char *)"parent.vhdx",
        },
    };

    vhdx_qapi_has(&options.u.vhdx, backing_file);
    return blockdev_create(&options, errp);
}

/* The size is the parent's. */
static void test_child_size(void)
{
    QDict *options = qdict_new();
    BlockDriverState *bs;
    Error *err = NULL;

    make_parent(16);
    g_assert_true(g_file_set_contents(image_path, "", 0, NULL));
    qdict_put_str(options, "driver", "file");
    qdict_put_str(options, "node-name", "file");
    qdict_put_str(options, "filename", image_path);
    bs = bdrv_open(NULL, NULL, options, BDRV_O_RDWR | BDRV_O_RESIZE,
                   &error_abort);
    g_assert_cmpint(create_child_on("none", &err), <, 0);
    expect_error(err, "none", "");
    g_assert_cmpint(create_child_on("file", &error_abort), ==, 0);
    bdrv_unref(bs);
    check_child(image_path);
    unlink(image_path);
    unlink(parent_path);
}

int main(int argc, char **argv)
{
    g_autofree char *dir = g_dir_make_tmp("vhdx-create-XXXXXX", NULL);
    int ret;

    g_test_init(&argc, &argv, NULL);
    bdrv_init();
    qemu_init_main_loop(&error_abort);
    g_assert_nonnull(dir);
    image_path = g_build_filename(dir, "image.vhdx", NULL);
    parent_path = g_build_filename(dir, "parent.vhdx", NULL);

    g_test_add_func("/vhdx/create/plan/sizes", test_sizes);
    g_test_add_func("/vhdx/create/plan/random", test_random);
    g_test_add_func("/vhdx/create/plan/largest", test_largest);
    g_test_add_func("/vhdx/create/plan/empty", test_empty);
    g_test_add_func("/vhdx/create/plan/default-block-size",
                    test_default_block_size);
    g_test_add_func("/vhdx/create/plan/tables", test_tables);

    g_test_add_func("/vhdx/create/plan/bad-size", test_bad_size);
    g_test_add_func("/vhdx/create/plan/bad-block-size", test_bad_block_size);
    g_test_add_func("/vhdx/create/plan/bad-log-size", test_bad_log_size);
    g_test_add_func("/vhdx/create/plan/bad-sector-sizes", test_bad_sectors);
    g_test_add_func("/vhdx/create/plan/preallocation", test_preallocation);

    g_test_add_func("/vhdx/create/options/rounded", test_rounding);
    g_test_add_func("/vhdx/create/options/refused", test_refused);
    g_test_add_func("/vhdx/create/options/no-falloc", test_no_falloc);
    g_test_add_func("/vhdx/create/child/items", test_child_items);
    g_test_add_func("/vhdx/create/child/colon", test_child_colon);
    g_test_add_func("/vhdx/create/child/size", test_child_size);
    ret = g_test_run();

    unlink(image_path);
    rmdir(dir);
    g_free(parent_path);
    g_free(image_path);
    return ret;
}
