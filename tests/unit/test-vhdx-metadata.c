/*
 * VHDX unit tests: the metadata table and its items
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/format.h"
#include "block/vhdx/tables.h"
#include "vhdx-test-tables.h"

static uint8_t *item_bytes(const Slot *slots, uint32_t count)
{
    uint8_t *buf = g_malloc0(TABLE_BYTES);

    memcpy(buf, "metadata", 8);
    put_le(buf + 10, count, 2);
    for (uint32_t i = 0; i < count; i++) {
        put_guid(buf + 32 + 32 * i, slots[i].guid);
        put_le(buf + 32 + 32 * i + 16, slots[i].offset, 4);
        put_le(buf + 32 + 32 * i + 20, slots[i].length, 4);
        put_le(buf + 32 + 32 * i + 24, slots[i].flags, 4);
    }
    return buf;
}

static const Slot good_items[6] = {
    { GUID_FILE_PARAMETERS, 0x10000, 8, 4 },
    { GUID_DISK_SIZE, 0x10008, 8, 6 },
    { GUID_DISK_ID, 0x10010, 16, 6 },
    { GUID_LOGICAL_SECTOR, 0x10020, 4, 6 },
    { GUID_PHYSICAL_SECTOR, 0x10024, 4, 6 },
    { UNKNOWN_GUID, 0x10028, 100, 0 },
};

static void accept_items(const Slot *slots, uint32_t count, uint32_t region)
{
    g_autofree uint8_t *buf = item_bytes(slots, count);
    g_autofree VHDXItem *items = NULL;
    uint32_t got = 0;

    g_assert_cmpint(vhdx_metadata_table_decode(buf, region, &items, &got,
                                               &error_abort), ==, 0);
    g_assert_cmpint(got, ==, count);
    for (uint32_t i = 0; i < count; i++) {
        uint8_t want[16], guid[16];

        put_guid(want, slots[i].guid);
        vhdx_guid_encode(&items[i].guid, guid);
        g_assert_cmpmem(guid, 16, want, 16);
        g_assert_cmphex(items[i].offset, ==, slots[i].offset);
        g_assert_cmphex(items[i].length, ==, slots[i].length);
        g_assert_cmphex(items[i].flags, ==, slots[i].flags);
    }
}

static void refuse_items(const Slot *slots, uint32_t count, int ret,
                         const char *name, const char *value)
{
    g_autofree uint8_t *buf = item_bytes(slots, count);
    VHDXItem *items = NULL;
    Error *err = NULL;
    uint32_t got;

    g_assert_cmpint(vhdx_metadata_table_decode(buf, MiB, &items, &got, &err),
                    ==, ret);
    expect_error(err, name, value);
    g_assert_null(items);
}

/* Refuse the good table with @bad as its last item. */
static void refuse_item(Slot bad, int ret, const char *name,
                        const char *value)
{
    Slot slots[6];

    memcpy(slots, good_items, sizeof(slots));
    slots[5] = bad;
    refuse_items(slots, 6, ret, name, value);
}

static void test_table_good(void)
{
    const Slot ends[] = {
        { UNKNOWN_GUID, 0, 0, 0 },              /* an item without content */
        { UNKNOWN_GUID, 0x10000, 1, 1 },        /* the same GUID, a user's */
        { OTHER_GUID, MiB, MiB, 2 },            /* as long as it may be */
        { GUID_PARENT_LOCATOR, 3 * MiB - 1, 1, 4 },
    };

    accept_items(good_items, 6, MiB);
    accept_items(ends, 4, 3 * MiB);
    accept_items(NULL, 0, MiB);
}

static void test_table_signature(void)
{
    g_autofree uint8_t *buf = item_bytes(good_items, 6);

    for (int i = 0; i < 8; i++) {
        VHDXItem *items = NULL;
        Error *err = NULL;
        uint32_t count;

        buf[i] ^= 0x20;
        g_assert_cmpint(vhdx_metadata_table_decode(buf, MiB, &items, &count,
                                                   &err), ==, -EINVAL);
        expect_error(err, "metadata table", "signature");
        buf[i] ^= 0x20;
    }
}

static void test_table_count(void)
{
    g_autofree Slot *slots = g_new(Slot, 2047);
    g_autofree uint8_t *buf = NULL;
    static const uint32_t bad[] = { 2048, 2049, 65535 };

    for (uint32_t i = 0; i < 2047; i++) {
        slots[i] = (Slot) { guid_number(i), 0x10000 + 4 * i, 4, 0 };
    }
    accept_items(slots, 2047, MiB);

    buf = item_bytes(slots, 2047);
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *value = g_strdup_printf("%" PRIu32, bad[i]);
        VHDXItem *items = NULL;
        Error *err = NULL;
        uint32_t count;

        put_le(buf + 10, bad[i], 2);
        g_assert_cmpint(vhdx_metadata_table_decode(buf, MiB, &items, &count,
                                                   &err), ==, -EINVAL);
        expect_error(err, "EntryCount", value);
    }
}

static void test_table_users(void)
{
    g_autofree Slot *slots = g_new(Slot, 1030);

    for (uint32_t i = 0; i < 1030; i++) {
        slots[i] = (Slot) { guid_number(i), 0x10000 + 4 * i, 4, i < 5 ? 0 : 1 };
    }
    accept_items(slots, 5 + 1024, MiB);
    refuse_items(slots, 5 + 1025, -EINVAL, "user", "1024");
}

static void test_table_offset(void)
{
    static const Slot bad[] = {
        { UNKNOWN_GUID, 0xffff, 8, 0 },         /* inside the table */
        { UNKNOWN_GUID, 32, 8, 0 },
        { UNKNOWN_GUID, 0, 8, 0 },
        { UNKNOWN_GUID, 0x20000, 0, 0 },        /* length 0, offset not */
        { UNKNOWN_GUID, MiB - 7, 8, 0 },        /* behind the region */
        { UNKNOWN_GUID, MiB, 1, 0 },
        { UNKNOWN_GUID, 0x10000, MiB, 0 },
        { UNKNOWN_GUID, 0xfffffff8, 8, 0 },     /* the sum is 2^32 */
        { UNKNOWN_GUID, 0xffffffff, 8, 0 },
        { UNKNOWN_GUID, 0xfff00000, MiB, 0 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *value = g_strdup_printf("%" PRIu64, bad[i].offset);

        refuse_item(bad[i], -EINVAL, "Offset", value);
    }
}

static void test_table_length(void)
{
    static const uint32_t bad[] = { MiB + 1, 0x80000000, 0xffffffff };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *value = g_strdup_printf("%" PRIu32, bad[i]);

        refuse_item((Slot) { UNKNOWN_GUID, 0x20000, bad[i], 0 }, -EINVAL,
                    "Length", value);
    }
}

static void test_table_overlap(void)
{
    refuse_item((Slot) { UNKNOWN_GUID, 0x10026, 8, 0 }, -EINVAL, "overlap",
                "65574");
    refuse_item((Slot) { UNKNOWN_GUID, 0x10000, 0x1000, 0 }, -EINVAL,
                "overlap", "65536");
}

static void test_table_duplicate(void)
{
    refuse_item((Slot) { GUID_DISK_SIZE, 0x20000, 8, 6 }, -EINVAL, "twice",
                GUID_DISK_SIZE);
    /* IsVirtualDisk and IsRequired do not make another item of it */
    refuse_item((Slot) { GUID_DISK_SIZE, 0x20000, 8, 0 }, -EINVAL, "twice",
                GUID_DISK_SIZE);
}

static void test_table_unknown(void)
{
    refuse_item((Slot) { UNKNOWN_GUID, 0x20000, 8, 4 }, -ENOTSUP, "required",
                UNKNOWN_GUID);
    refuse_item((Slot) { UNKNOWN_GUID, 0x20000, 8, 5 }, -ENOTSUP, "required",
                UNKNOWN_GUID);
    /* a user's item is another one, even with the GUID of a known item */
    refuse_item((Slot) { GUID_DISK_SIZE, 0x20000, 8, 5 }, -ENOTSUP,
                "required", GUID_DISK_SIZE);
}

static void test_table_unfinished(void)
{
    for (uint32_t flags = 0; flags <= 4; flags += 2) {
        refuse_item((Slot) { GUID_UNFINISHED, 0x20000, 8, flags }, -EINVAL,
                    "interrupted", GUID_UNFINISHED);
    }
}

static void test_table_find(void)
{
    const Slot slots[] = {
        { UNKNOWN_GUID, 0x10040, 8, 1 },
        { GUID_DISK_SIZE, 0x10020, 8, 1 },      /* a user's: not the one */
        { GUID_DISK_SIZE, 0x10000, 8, 6 },
        { GUID_DISK_ID, 0x10010, 16, 6 },
    };
    g_autofree uint8_t *buf = item_bytes(slots, 4);
    g_autofree VHDXItem *items = NULL;
    uint32_t count = 0;

    vhdx_metadata_table_decode(buf, MiB, &items, &count, &error_abort);
    g_assert_true(vhdx_metadata_find(items, count, &vhdx_item_disk_size) ==
                  &items[2]);
    g_assert_true(vhdx_metadata_find(items, count, &vhdx_item_disk_id) ==
                  &items[3]);
    g_assert_null(vhdx_metadata_find(items, count,
                                     &vhdx_item_file_parameters));
    g_assert_null(vhdx_metadata_find(items, 3, &vhdx_item_disk_id));
    g_assert_null(vhdx_metadata_find(NULL, 0, &vhdx_item_disk_id));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    g_test_add_func("/vhdx/metadata/good", test_table_good);
    g_test_add_func("/vhdx/metadata/bad-signature", test_table_signature);
    g_test_add_func("/vhdx/metadata/bad-count", test_table_count);
    g_test_add_func("/vhdx/metadata/too-many-user-items", test_table_users);
    g_test_add_func("/vhdx/metadata/bad-offset", test_table_offset);
    g_test_add_func("/vhdx/metadata/bad-length", test_table_length);
    g_test_add_func("/vhdx/metadata/overlap", test_table_overlap);
    g_test_add_func("/vhdx/metadata/duplicate", test_table_duplicate);
    g_test_add_func("/vhdx/metadata/unknown-required", test_table_unknown);
    g_test_add_func("/vhdx/metadata/unfinished", test_table_unfinished);
    g_test_add_func("/vhdx/metadata/find", test_table_find);

    return g_test_run();
}
