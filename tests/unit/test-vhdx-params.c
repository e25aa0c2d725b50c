/*
 * VHDX unit tests: the content of the metadata items
 *
 * Items as bytes, with what they say about the disk, and which of the disks
 * that they can describe are refused.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/format.h"
#include "block/vhdx/tables.h"
#include "vhdx-test-util.h"

#define DISK_ID "01020304-0506-0708-090A-0B0C0D0E0F10"

static VHDXParams sample_params(void)
{
    VHDXParams params = {
        .disk_size = 64 * (uint64_t)GiB + 512,
        .block_size = 32 * MiB,
        .logical_sector = 512,
        .physical_sector = 4096,
    };

    g_assert_cmpint(uuid_parse(DISK_ID, params.disk_id.id), ==, 0);
    return params;
}

/* -- Encoding -- */

/*
 * The items that every image without parent has, and what sample_params()
 * make of them.
 */
static const struct {
    const char *guid;
    uint32_t flags;
    uint32_t length;
    uint8_t content[16];
} want_items[] = {
    { GUID_FILE_PARAMETERS, 4, 8, { 0, 0, 0, 2, 0, 0, 0, 0 } },
    { GUID_DISK_SIZE, 6, 8, { 0, 2, 0, 0, 0x10, 0, 0, 0 } },
    { GUID_DISK_ID, 6, 16, { 4, 3, 2, 1, 6, 5, 8, 7, 9, 10, 11, 12, 13, 14,
                             15, 16 } },
    { GUID_LOGICAL_SECTOR, 6, 4, { 0, 2, 0, 0 } },
    { GUID_PHYSICAL_SECTOR, 6, 4, { 0, 0x10, 0, 0 } },
};

/* The table entry of the item that is printed as @text, found by hand. */
static const uint8_t *find_entry(const uint8_t *buf, const char *text)
{
    const uint8_t *found = NULL;
    uint8_t guid[16];

    put_guid(guid, text);
    for (uint64_t i = 0; i < get_le(buf + 10, 2); i++) {
        const uint8_t *entry = buf + 32 + 32 * i;

        if (!memcmp(entry, guid, 16)) {
            g_assert_null(found);
            found = entry;
        }
    }
    g_assert_nonnull(found);
    return found;
}

static void test_encode(void)
{
    VHDXParams params = sample_params();
    g_autofree uint8_t *buf = g_malloc(VHDX_METADATA_USED);
    g_autofree uint8_t *seen = g_malloc0(VHDX_METADATA_USED);

    memset(buf, 0xaa, VHDX_METADATA_USED);
    vhdx_metadata_encode(&params, NULL, 0, buf);

    g_assert_cmpmem(buf, 8, "metadata", 8);
    g_assert_cmpint(get_le(buf + 10, 2), ==, G_N_ELEMENTS(want_items));
    memset(seen, 1, 12);
    for (size_t i = 0; i < G_N_ELEMENTS(want_items); i++) {
        const uint8_t *entry = find_entry(buf, want_items[i].guid);
        uint64_t offset = get_le(entry + 16, 4);

        g_assert_cmpint(get_le(entry + 20, 4), ==, want_items[i].length);
        g_assert_cmpint(get_le(entry + 24, 4), ==, want_items[i].flags);
        g_assert_cmpint(get_le(entry + 28, 4), ==, 0);
        g_assert_cmpint(offset, >=, 64 * KiB);
        g_assert_cmpint(offset + want_items[i].length, <=, VHDX_METADATA_USED);
        g_assert_cmpmem(buf + offset, want_items[i].length,
                        want_items[i].content, want_items[i].length);
        memset(seen + (entry - buf), 1, 32);
        for (uint32_t j = 0; j < want_items[i].length; j++) {
            /* no item on top of another */
            g_assert_cmpint(seen[offset + j], ==, 0);
            seen[offset + j] = 1;
        }
    }
    /* and zeros wherever nothing is */
    for (size_t i = 0; i < VHDX_METADATA_USED; i++) {
        g_assert_true(seen[i] || !buf[i]);
    }
}

static void test_encode_fixed(void)
{
    VHDXParams params = sample_params();
    g_autofree uint8_t *buf = g_malloc(VHDX_METADATA_USED);
    const uint8_t *entry;

    params.leave_allocated = true;
    vhdx_metadata_encode(&params, NULL, 0, buf);
    entry = find_entry(buf, GUID_FILE_PARAMETERS);
    g_assert_cmpint(get_le(buf + get_le(entry + 16, 4) + 4, 4), ==, 1);
}

static void test_round_trip(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(4);
    g_autofree uint8_t *buf = g_malloc(VHDX_METADATA_USED);

    for (int i = 0; i < 100; i++) {
        VHDXParams got = { 0 }, params = {
            .logical_sector = g_rand_boolean(rand) ? 512 : 4096,
            .physical_sector = g_rand_boolean(rand) ? 512 : 4096,
            .block_size = MiB << g_rand_int_range(rand, 0, 9),
            .leave_allocated = g_rand_boolean(rand),
        };
        g_autofree VHDXItem *items = NULL;
        uint32_t count = 0;

        params.disk_size = rand64(rand) % (64 * TiB / 4096 + 1) * 4096;
        rand_fill(rand, params.disk_id.id, 16);
        vhdx_metadata_encode(&params, NULL, 0, buf);

        vhdx_metadata_table_decode(buf, MiB, &items, &count, &error_abort);
        for (uint32_t j = 0; j < count; j++) {
            g_assert_cmpint(items[j].length, ==,
                            vhdx_metadata_item_size(&items[j].guid));
            vhdx_metadata_item_decode(&items[j].guid, buf + items[j].offset,
                                      &got);
        }
        g_assert_cmphex(got.disk_size, ==, params.disk_size);
        g_assert_cmphex(got.block_size, ==, params.block_size);
        g_assert_cmpint(got.logical_sector, ==, params.logical_sector);
        g_assert_cmpint(got.physical_sector, ==, params.physical_sector);
        g_assert_cmpint(got.leave_allocated, ==, params.leave_allocated);
        g_assert_false(got.has_parent);
        g_assert_cmpmem(got.disk_id.id, 16, params.disk_id.id, 16);
        g_assert_cmpint(vhdx_params_check(&got, &error_abort), ==, 0);
    }
}

/* -- Decoding -- */

static void test_item_size(void)
{
    const VHDXGuid user = { { 0x01 } };

    g_assert_cmpint(vhdx_metadata_item_size(&vhdx_item_file_parameters), ==, 8);
    g_assert_cmpint(vhdx_metadata_item_size(&vhdx_item_disk_size), ==, 8);
    g_assert_cmpint(vhdx_metadata_item_size(&vhdx_item_disk_id), ==, 16);
    g_assert_cmpint(vhdx_metadata_item_size(&vhdx_item_logical_sector), ==, 4);
    g_assert_cmpint(vhdx_metadata_item_size(&vhdx_item_physical_sector), ==,
                    4);
    g_assert_cmpint(vhdx_metadata_item_size(&vhdx_item_unfinished), ==, 0);
    g_assert_cmpint(vhdx_metadata_item_size(&vhdx_guid_nil), ==, 0);
    g_assert_cmpint(vhdx_metadata_item_size(&user), ==, 0);
}

/* Each item changes what it is about, and nothing else. */
static void test_item_decode(void)
{
    static const uint8_t bytes[16] = {
        0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88,
        0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0x01
    };
    static const uint8_t id[16] = {
        0x44, 0x33, 0x22, 0x11, 0x66, 0x55, 0x88, 0x77,
        0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0x01
    };
    VHDXParams got, want;

    got = want = sample_params();
    vhdx_metadata_item_decode(&vhdx_item_disk_size, bytes, &got);
    g_assert_cmphex(got.disk_size, ==, 0x8877665544332211);
    got.disk_size = want.disk_size;
    vhdx_metadata_item_decode(&vhdx_item_disk_id, bytes, &got);
    g_assert_cmpmem(got.disk_id.id, 16, id, 16);
    got.disk_id = want.disk_id;
    vhdx_metadata_item_decode(&vhdx_item_logical_sector, bytes, &got);
    g_assert_cmphex(got.logical_sector, ==, 0x44332211);
    got.logical_sector = want.logical_sector;
    vhdx_metadata_item_decode(&vhdx_item_physical_sector, bytes, &got);
    g_assert_cmphex(got.physical_sector, ==, 0x44332211);
    got.physical_sector = want.physical_sector;
    vhdx_metadata_item_decode(&vhdx_item_file_parameters, bytes, &got);
    g_assert_cmphex(got.block_size, ==, 0x44332211);
    got.block_size = want.block_size;
    got.leave_allocated = want.leave_allocated;
    got.has_parent = want.has_parent;

    g_assert_cmphex(got.disk_size, ==, want.disk_size);
    g_assert_cmphex(got.block_size, ==, want.block_size);
    g_assert_cmphex(got.logical_sector, ==, want.logical_sector);
    g_assert_cmphex(got.physical_sector, ==, want.physical_sector);
    g_assert_cmpmem(got.disk_id.id, 16, want.disk_id.id, 16);
}

static void test_item_bits(void)
{
    for (uint32_t bits = 0; bits < 4; bits++) {
        VHDXParams params = sample_params();
        uint8_t bytes[8];

        params.leave_allocated = !(bits & 1);
        params.has_parent = !(bits & 2);
        put_le(bytes, 2 * MiB, 4);
        put_le(bytes + 4, bits, 4);
        vhdx_metadata_item_decode(&vhdx_item_file_parameters, bytes, &params);
        g_assert_cmpint(params.block_size, ==, 2 * MiB);
        g_assert_cmpint(params.leave_allocated, ==, bits % 2);
        g_assert_cmpint(params.has_parent, ==, bits / 2);
    }
}

/* -- Judging -- */

static void refuse(const VHDXParams *params, const char *name, uint64_t value)
{
    g_autofree char *text = g_strdup_printf("%" PRIu64, value);
    Error *err = NULL;

    g_assert_cmpint(vhdx_params_check(params, &err), ==, -EINVAL);
    expect_error(err, name, text);
}

static void test_check_good(void)
{
    static const uint64_t sizes[] = {
        0, 4096, MiB, GiB + 4096, 64 * TiB - 4096, 64 * TiB
    };

    for (uint32_t block_size = MiB; block_size <= 256 * MiB; block_size *= 2) {
        for (int sectors = 0; sectors < 4; sectors++) {
            for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
                VHDXParams params = sample_params();

                params.disk_size = sizes[i];
                params.block_size = block_size;
                params.logical_sector = sectors & 1 ? 4096 : 512;
                params.physical_sector = sectors & 2 ? 4096 : 512;
                params.leave_allocated = i & 1;
                params.has_parent = i & 2;
                g_assert_cmpint(vhdx_params_check(&params, &error_abort), ==,
                                0);
            }
        }
    }
}

static void test_check_block_size(void)
{
    static const uint32_t bad[] = {
        0, 1, 512, 512 * KiB, MiB - 1, MiB + 1, 3 * MiB, 48 * MiB,
        256 * MiB + 1, 257 * MiB, 512 * MiB, 0x80000000, 0xffffffff
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        VHDXParams params = sample_params();

        params.block_size = bad[i];
        refuse(&params, "BlockSize", bad[i]);
    }
}

static void test_check_sectors(void)
{
    static const uint32_t bad[] = {
        0, 1, 256, 511, 513, 1024, 2048, 4095, 8192, 0x80000000, 0xffffffff
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        VHDXParams params = sample_params();

        params.logical_sector = bad[i];
        refuse(&params, "LogicalSectorSize", bad[i]);
        params = sample_params();
        params.physical_sector = bad[i];
        refuse(&params, "PhysicalSectorSize", bad[i]);
    }
}

static void test_check_disk_size(void)
{
    static const struct {
        uint64_t size;
        uint32_t logical_sector;
    } bad[] = {
        { 1, 512 }, { 511, 512 }, { GiB + 1, 512 }, { 512, 4096 },
        { GiB + 512, 4096 }, { 64 * TiB + 512, 512 }, { 64 * TiB + 1, 512 },
        { 64 * TiB + 4096, 4096 }, { 0x8000000000000000, 512 },
        { 0xfffffffffffff000, 4096 }, { UINT64_MAX, 512 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        VHDXParams params = sample_params();

        params.disk_size = bad[i].size;
        params.logical_sector = bad[i].logical_sector;
        refuse(&params, "DiskSize", bad[i].size);
    }
}

static void test_item_flags(void)
{
    const VHDXGuid user = { { 1, 2, 3 } };

    /* 2: of the virtual disk, 4: required */
    g_assert_cmpint(vhdx_metadata_item_flags(&vhdx_item_file_parameters), ==,
                    4);
    g_assert_cmpint(vhdx_metadata_item_flags(&vhdx_item_disk_size), ==, 6);
    g_assert_cmpint(vhdx_metadata_item_flags(&vhdx_item_disk_id), ==, 6);
    g_assert_cmpint(vhdx_metadata_item_flags(&vhdx_item_logical_sector), ==,
                    6);
    g_assert_cmpint(vhdx_metadata_item_flags(&vhdx_item_physical_sector), ==,
                    6);
    g_assert_cmpint(vhdx_metadata_item_flags(&vhdx_item_unfinished), ==, 0);
    g_assert_cmpint(vhdx_metadata_item_flags(&user), ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    g_test_add_func("/vhdx/params/encode", test_encode);
    g_test_add_func("/vhdx/params/encode-fixed", test_encode_fixed);
    g_test_add_func("/vhdx/params/round-trip", test_round_trip);
    g_test_add_func("/vhdx/params/item-size", test_item_size);
    g_test_add_func("/vhdx/params/item-flags", test_item_flags);
    g_test_add_func("/vhdx/params/item-decode", test_item_decode);
    g_test_add_func("/vhdx/params/item-bits", test_item_bits);
    g_test_add_func("/vhdx/params/good", test_check_good);
    g_test_add_func("/vhdx/params/bad-block-size", test_check_block_size);
    g_test_add_func("/vhdx/params/bad-sector-sizes", test_check_sectors);
    g_test_add_func("/vhdx/params/bad-disk-size", test_check_disk_size);

    return g_test_run();
}
