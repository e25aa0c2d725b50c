/*
 * VHDX unit tests: the region table
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/format.h"
#include "block/vhdx/tables.h"
#include "vhdx-test-tables.h"

#define LOG_OFFSET      (4 * (uint64_t)MiB)
#define LOG_LENGTH      (2 * (uint32_t)MiB)

static uint8_t *region_bytes(const Slot *slots, uint32_t count)
{
    uint8_t *buf = g_malloc0(TABLE_BYTES);

    memcpy(buf, "regi", 4);
    put_le(buf + 8, count, 4);
    for (uint32_t i = 0; i < count; i++) {
        put_guid(buf + 16 + 32 * i, slots[i].guid);
        put_le(buf + 16 + 32 * i + 16, slots[i].offset, 8);
        put_le(buf + 16 + 32 * i + 24, slots[i].length, 4);
        put_le(buf + 16 + 32 * i + 28, slots[i].flags, 4);
    }
    seal(buf, TABLE_BYTES);
    return buf;
}

static const Slot good_regions[2] = {
    { GUID_REGION_BAT, 3 * MiB, MiB, 1 },
    { GUID_REGION_METADATA, 2 * MiB, MiB, 1 },
};

/* What the decoder makes of a table. */
typedef struct Decoded {
    VHDXRegion *regions;
    uint32_t count;
    VHDXRegion bat, metadata;
} Decoded;

static int decode_regions(const uint8_t *buf, Decoded *d, Error **errp)
{
    *d = (Decoded) { 0 };
    return vhdx_region_table_decode(buf, LOG_OFFSET, LOG_LENGTH, &d->regions,
                                    &d->count, &d->bat, &d->metadata, errp);
}

static void assert_region(const VHDXRegion *region, const Slot *slot)
{
    uint8_t want[16], got[16];

    put_guid(want, slot->guid);
    vhdx_guid_encode(&region->guid, got);
    g_assert_cmpmem(got, 16, want, 16);
    g_assert_cmphex(region->offset, ==, slot->offset);
    g_assert_cmphex(region->length, ==, slot->length);
    g_assert_cmphex(region->flags, ==, slot->flags);
}

static void accept_regions(const Slot *slots, uint32_t count)
{
    g_autofree uint8_t *buf = region_bytes(slots, count);
    Decoded d;

    g_assert_true(vhdx_region_table_valid(buf));
    g_assert_cmpint(decode_regions(buf, &d, &error_abort), ==, 0);
    g_assert_cmpint(d.count, ==, count);
    for (uint32_t i = 0; i < count; i++) {
        assert_region(&d.regions[i], &slots[i]);
        if (!strcmp(slots[i].guid, GUID_REGION_BAT)) {
            assert_region(&d.bat, &slots[i]);
        }
        if (!strcmp(slots[i].guid, GUID_REGION_METADATA)) {
            assert_region(&d.metadata, &slots[i]);
        }
    }
    g_free(d.regions);
}

static void refuse_regions(const Slot *slots, uint32_t count, int ret,
                           const char *name, const char *value)
{
    g_autofree uint8_t *buf = region_bytes(slots, count);
    Error *err = NULL;
    Decoded d;

    g_assert_cmpint(decode_regions(buf, &d, &err), ==, ret);
    expect_error(err, name, value);
    g_assert_null(d.regions);
}

/*
 * The place of foreign region @foreign is not good, which is no reason to
 * refuse the image: it holds nothing, and the others all of theirs.
 */
static void ignore_region(const Slot *slots, uint32_t count, uint32_t foreign)
{
    g_autofree uint8_t *buf = region_bytes(slots, count);
    Decoded d;

    accept_regions(slots, count);
    g_assert_cmpint(decode_regions(buf, &d, &error_abort), ==, 0);
    for (uint32_t i = 0; i < count; i++) {
        g_assert_cmphex(d.regions[i].held, ==,
                        i == foreign ? 0 : slots[i].length);
    }
    g_assert_cmphex(d.bat.held, ==, d.bat.length);
    g_assert_cmphex(d.metadata.held, ==, d.metadata.length);
    g_free(d.regions);
}

static void test_region_encode(void)
{
    g_autofree uint8_t *want = region_bytes(good_regions, 2);
    g_autofree uint8_t *got = g_malloc(TABLE_BYTES);
    static const uint8_t start[80] = {
        'r', 'e', 'g', 'i', 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0,
        0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42,
        0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08,
        0, 0, 0x30, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 1, 0, 0, 0,
        0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b,
        0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e,
        0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 1, 0, 0, 0,
    };
    const VHDXRegion regions[2] = {
        { vhdx_region_bat, 3 * MiB, MiB, VHDX_REGION_REQUIRED },
        { vhdx_region_metadata, 2 * MiB, MiB, VHDX_REGION_REQUIRED },
    };

    memset(got, 0xaa, TABLE_BYTES);
    vhdx_region_table_encode(regions, 2, got);
    g_assert_cmpmem(got + 8, 72, start + 8, 72);
    g_assert_cmpmem(got, TABLE_BYTES, want, TABLE_BYTES);
}

static void test_region_valid(void)
{
    g_autofree uint8_t *buf = region_bytes(good_regions, 2);

    g_assert_true(vhdx_region_table_valid(buf));
    for (size_t i = 0; i < TABLE_BYTES; i += i < 80 ? 1 : 65) {
        buf[i] ^= 0x04;
        g_assert_false(vhdx_region_table_valid(buf));
        buf[i] ^= 0x04;
    }
    memcpy(buf, "REGI", 4);
    seal(buf, TABLE_BYTES);
    g_assert_false(vhdx_region_table_valid(buf));
    memset(buf, 0, TABLE_BYTES);
    g_assert_false(vhdx_region_table_valid(buf));
}

static void test_region_good(void)
{
    const Slot swapped[] = { good_regions[1], good_regions[0] };
    /* QEMU's old driver left the Required bits out */
    const Slot no_bits[] = {
        { GUID_REGION_BAT, 3 * MiB, MiB, 0 },
        { GUID_REGION_METADATA, 2 * MiB, MiB, 0 },
    };
    /* one MiB before the log, one behind it, and a far one of almost 4 GiB */
    const Slot others[] = {
        { GUID_REGION_METADATA, MiB, MiB, 1 },
        { UNKNOWN_GUID, LOG_OFFSET - MiB, MiB, 0 },
        { OTHER_GUID, LOG_OFFSET + LOG_LENGTH, MiB, 0 },
        { GUID_REGION_BAT, 64 * TiB, 0xfff00000, 1 },
    };

    accept_regions(good_regions, 2);
    accept_regions(swapped, 2);
    accept_regions(no_bits, 2);
    accept_regions(others, 4);
}

static void test_region_count(void)
{
    g_autofree Slot *slots = g_new(Slot, 2047);
    g_autofree uint8_t *buf = NULL;
    static const uint32_t bad[] = { 2048, 65536, 0x80000000, 0xffffffff };

    memcpy(slots, good_regions, sizeof(good_regions));
    for (uint32_t i = 2; i < 2047; i++) {
        slots[i] = (Slot) { guid_number(i), (16ULL + i) * MiB, MiB, 0 };
    }
    accept_regions(slots, 2047);

    buf = region_bytes(slots, 2047);
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *value = g_strdup_printf("%" PRIu32, bad[i]);
        Error *err = NULL;
        Decoded d;

        put_le(buf + 8, bad[i], 4);
        seal(buf, TABLE_BYTES);
        g_assert_cmpint(decode_regions(buf, &d, &err), ==, -EINVAL);
        expect_error(err, "EntryCount", value);
    }
}

static void test_region_offset(void)
{
    static const uint64_t bad[] = {
        0, 64 * KiB, MiB - 1, 8 * MiB + 1, 8 * MiB + 512 * KiB,
        0x7ffffffffff00000, 0x8000000000000000, 0xfffffffffff00000
    };

    for (size_t i = 0; i < 3 * G_N_ELEMENTS(bad); i++) {
        Slot slots[3] = {
            good_regions[0], good_regions[1], { UNKNOWN_GUID, 0, MiB, 0 }
        };
        uint64_t offset = bad[i / 3];
        g_autofree char *value = g_strdup_printf("%" PRIu64, offset);

        slots[i % 3].offset = offset;
        if (i % 3 == 2) {
            ignore_region(slots, 3, 2);
            continue;
        }
        refuse_regions(slots, 2, -EINVAL, "FileOffset", value);
    }
}

static void test_region_length(void)
{
    static const uint32_t bad[] = {
        0, 1, 65536, MiB - 1, MiB + 1, 3 * MiB / 2, 0xffffffff
    };

    for (size_t i = 0; i < 3 * G_N_ELEMENTS(bad); i++) {
        Slot slots[3] = {
            good_regions[0], good_regions[1], { UNKNOWN_GUID, GiB, 0, 0 }
        };
        uint32_t length = bad[i / 3];
        g_autofree char *value = g_strdup_printf("%" PRIu32, length);

        slots[i % 3].offset = GiB;
        slots[i % 3].length = length;
        if (i % 3 == 2) {
            ignore_region(slots, 3, 2);
            continue;
        }
        refuse_regions(slots, 2, -EINVAL, "Length", value);
    }
}

static void test_region_log_overlap(void)
{
    static const struct {
        uint64_t offset;
        uint32_t length;
    } bad[] = {
        { LOG_OFFSET, LOG_LENGTH }, { LOG_OFFSET, MiB },
        { LOG_OFFSET + MiB, MiB }, { LOG_OFFSET + MiB, 7 * MiB },
        { LOG_OFFSET - MiB, 2 * MiB }, { LOG_OFFSET - MiB, 9 * MiB },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *value = g_strdup_printf("%" PRIu64, bad[i].offset);
        Slot slots[3] = {
            { GUID_REGION_METADATA, 2 * MiB, MiB, 1 },
            { GUID_REGION_BAT, bad[i].offset, bad[i].length, 1 },
        };

        refuse_regions(slots, 2, -EINVAL, "log", value);
        slots[1] = (Slot) { GUID_REGION_BAT, 64 * MiB, MiB, 1 };
        slots[2] = (Slot) { UNKNOWN_GUID, bad[i].offset, bad[i].length, 0 };
        ignore_region(slots, 3, 2);
        slots[2].flags = 1;
        refuse_regions(slots, 3, -EINVAL, "log", value);
    }
}

static void test_region_overlap(void)
{
    static const struct {
        uint64_t offset;
        uint32_t length;
    } bad[] = {
        { 32 * MiB, 4 * MiB }, { 32 * MiB, MiB }, { 35 * MiB, MiB },
        { 33 * MiB, 2 * MiB }, { 31 * MiB, 2 * MiB }, { 31 * MiB, 6 * MiB },
        { 35 * MiB, 0xff000000 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        Slot slots[4] = {
            good_regions[1],
            { UNKNOWN_GUID, 16 * MiB, MiB, 0 },
            { GUID_REGION_BAT, 32 * MiB, 4 * MiB, 1 },
            { OTHER_GUID, bad[i].offset, bad[i].length, 1 },
        };
        g_autofree char *value = g_strdup_printf("%" PRIu64, bad[i].offset);

        refuse_regions(slots, 4, -EINVAL, "overlap", value);
        slots[3].flags = 0;
        ignore_region(slots, 4, 3);
        slots[2] = slots[3];
        slots[3] = (Slot) { GUID_REGION_BAT, 32 * MiB, 4 * MiB, 1 };
        ignore_region(slots, 4, 2);
        slots[2].flags = 1;
        refuse_regions(slots, 4, -ENOTSUP, "required", OTHER_GUID);
        slots[2].guid = GUID_REGION_METADATA;
        slots[0].guid = OTHER_GUID;
        slots[0].flags = 0;
        refuse_regions(slots, 4, -EINVAL, "overlap", "33554432");
    }
}

static void test_region_duplicate(void)
{
    static const char *const guids[] = {
        GUID_REGION_BAT, GUID_REGION_METADATA, UNKNOWN_GUID
    };

    for (size_t i = 0; i < G_N_ELEMENTS(guids); i++) {
        const Slot slots[4] = {
            { guids[i], 32 * MiB, MiB, 0 },
            good_regions[0], good_regions[1],
            { guids[i], 64 * MiB, MiB, 0 },
        };

        refuse_regions(slots, 4, -EINVAL, "twice", guids[i]);
    }
}

static void test_region_unknown(void)
{
    Slot slots[3] = {
        good_regions[0], good_regions[1], { UNKNOWN_GUID, 32 * MiB, MiB, 1 }
    };

    refuse_regions(slots, 3, -ENOTSUP, "required", UNKNOWN_GUID);
    slots[2].flags = 0;
    accept_regions(slots, 3);
}

static void test_region_missing(void)
{
    const Slot other = { UNKNOWN_GUID, 32 * MiB, MiB, 0 };
    const Slot only_bat[] = { good_regions[0], other };
    const Slot only_metadata[] = { other, good_regions[1] };

    refuse_regions(only_bat, 2, -EINVAL, "region", "metadata");
    refuse_regions(only_metadata, 2, -EINVAL, "region", "BAT");
    refuse_regions(NULL, 0, -EINVAL, "region", "no");
}

/* Foreign is what neither this driver nor another one has to know. */
static void test_region_foreign(void)
{
    static const struct {
        const char *guid;
        uint32_t flags;
        bool foreign;
    } known[] = {
        { GUID_REGION_BAT, 1, false }, { GUID_REGION_BAT, 0, false },
        { GUID_REGION_METADATA, 1, false }, { GUID_REGION_METADATA, 0, false },
        { UNKNOWN_GUID, 1, false }, { UNKNOWN_GUID, 0xffffffff, false },
        { UNKNOWN_GUID, 0, true }, { UNKNOWN_GUID, 0xfffffffe, true },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
        VHDXRegion region = { .flags = known[i].flags };
        uint8_t guid[16];

        put_guid(guid, known[i].guid);
        region.guid = vhdx_guid_decode(guid);
        g_assert_cmpint(vhdx_region_is_foreign(&region), ==,
                        known[i].foreign);
    }
}

/* Both known regions get the flag, and nothing else changes. */
static void test_region_require(void)
{
    for (int flags = 0; flags < 4; flags++) {
        Slot slots[3] = {
            { UNKNOWN_GUID, 32 * MiB, MiB, 0 }, good_regions[0],
            good_regions[1]
        };
        g_autofree uint8_t *buf = NULL;
        g_autofree uint8_t *want = NULL;

        slots[1].flags |= 0x10;
        want = region_bytes(slots, 3);
        slots[1].flags = (flags & 1) | 0x10;
        slots[2].flags = flags >> 1;
        buf = region_bytes(slots, 3);
        g_assert_cmpint(vhdx_region_table_require(buf), ==, flags != 3);
        g_assert_cmpint(vhdx_region_table_valid(buf), ==, flags == 3);
        vhdx_region_table_seal(buf);
        g_assert_true(vhdx_region_table_valid(buf));
        g_assert_cmpmem(buf, TABLE_BYTES, want, TABLE_BYTES);
        g_assert_false(vhdx_region_table_require(buf));
    }
}

/* A count that is too large, as a damaged table has, reads no further. */
static void test_region_require_count(void)
{
    g_autofree uint8_t *buf = region_bytes(good_regions, 2);
    g_autofree uint8_t *want = NULL;

    put_le(buf + 8, 0xffffffff, 4);
    want = g_memdup2(buf, TABLE_BYTES);
    g_assert_false(vhdx_region_table_require(buf));
    g_assert_cmpmem(buf, TABLE_BYTES, want, TABLE_BYTES);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    g_test_add_func("/vhdx/region/encode", test_region_encode);
    g_test_add_func("/vhdx/region/signature-and-crc", test_region_valid);
    g_test_add_func("/vhdx/region/good", test_region_good);
    g_test_add_func("/vhdx/region/bad-count", test_region_count);
    g_test_add_func("/vhdx/region/bad-offset", test_region_offset);
    g_test_add_func("/vhdx/region/bad-length", test_region_length);
    g_test_add_func("/vhdx/region/overlaps-log", test_region_log_overlap);
    g_test_add_func("/vhdx/region/overlaps-region", test_region_overlap);
    g_test_add_func("/vhdx/region/duplicate", test_region_duplicate);
    g_test_add_func("/vhdx/region/unknown-required", test_region_unknown);
    g_test_add_func("/vhdx/region/missing", test_region_missing);
    g_test_add_func("/vhdx/region/foreign", test_region_foreign);
    g_test_add_func("/vhdx/region/require", test_region_require);
    g_test_add_func("/vhdx/region/require-count", test_region_require_count);

    return g_test_run();
}
