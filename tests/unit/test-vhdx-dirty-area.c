/*
 * VHDX unit tests: dirty bitmaps as data
 *
 * Heads and directories are put together here from the text of
 * docs/interop/vhdx-dirty-bitmaps.rst.  Each reason to call one damaged has a
 * test that spoils one thing in a good one.  Numbers of pages and places for
 * them are compared with what walks find that know no formula.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/dirty-area.h"
#include "vhdx-test-util.h"

#define PAGE        4096
#define PAGE_BITS   32768

/* A region of 2 MiB with the head in its middle */
#define HEAD        256
#define PAGES       512

#define FILE_WRITE  "01020304-0506-0708-090A-0B0C0D0E0F10"
#define DATA_WRITE  "11121314-1516-1718-191A-1B1C1D1E1F20"

/* -- Head -- */

static void head_seal(uint8_t *buf)
{
    put_le(buf + 8, 0, 4);
    put_le(buf + 8, slow_crc32c(buf, PAGE), 4);
}

/* A good one */
static void head_put(uint8_t *buf)
{
    memset(buf, 0, PAGE);
    memcpy(buf, "qvhdxbmp", 8);
    put_le(buf + 12, 1, 2);
    put_guid(buf + 16, FILE_WRITE);
    put_guid(buf + 32, DATA_WRITE);
    put_le(buf + 48, 5 * TiB + 512, 8);
    put_le(buf + 56, 300, 4);
    put_le(buf + 60, 5000, 4);
    put_le(buf + 64, 0x89abcdef, 4);
    put_le(buf + 68, 3, 4);
    put_le(buf + 72, 0x123456789a, 8);
    head_seal(buf);
}

static void expect_guid(const VHDXGuid *guid, const char *text)
{
    uint8_t raw[16];

    vhdx_guid_encode(guid, raw);
    g_assert_true(guid_is(raw, text));
}

static void test_head(void)
{
    uint8_t buf[PAGE], again[PAGE];
    VHDXDirtyHead head;

    head_put(buf);
    g_assert_true(vhdx_dirty_head_found(buf));
    g_assert_cmpint(vhdx_dirty_head_decode(buf, HEAD, PAGES, &head,
                                           &error_abort), ==, 0);
    expect_guid(&head.file_write_guid, FILE_WRITE);
    expect_guid(&head.data_write_guid, DATA_WRITE);
    g_assert_cmpuint(head.disk_size, ==, 5 * TiB + 512);
    g_assert_cmpuint(head.directory_page, ==, 300);
    g_assert_cmpuint(head.directory_bytes, ==, 5000);
    g_assert_cmphex(head.directory_crc, ==, 0x89abcdef);
    g_assert_cmpuint(head.count, ==, 3);
    g_assert_cmphex(head.stores, ==, 0x123456789a);

    memset(again, 0xaa, PAGE);
    vhdx_dirty_head_encode(&head, again);
    g_assert_cmpmem(again, PAGE, buf, PAGE);
}

static void test_head_found(void)
{
    uint8_t buf[PAGE];

    for (int i = 0; i < 8; i++) {
        head_put(buf);
        buf[i] ^= 1;
        g_assert_false(vhdx_dirty_head_found(buf));
    }
    head_put(buf);
    buf[8] ^= 1;
    g_assert_true(vhdx_dirty_head_found(buf));
}

/* A good head with @bytes bytes of @value at @at gives @want. */
static void head_change(unsigned at, uint64_t value, int bytes, int want,
                        const char *name, const char *text)
{
    uint8_t buf[PAGE];
    VHDXDirtyHead head;
    Error *err = NULL;

    head_put(buf);
    put_le(buf + at, value, bytes);
    head_seal(buf);
    g_assert_cmpint(vhdx_dirty_head_decode(buf, HEAD, PAGES, &head, &err), ==,
                    want);
    if (want < 0) {
        expect_error(err, name, text);
    } else {
        g_assert_null(err);
    }
}

static void head_good(unsigned at, uint64_t value, int bytes)
{
    head_change(at, value, bytes, 0, NULL, NULL);
}

static void head_bad(unsigned at, uint64_t value, int bytes, const char *name,
                     const char *text)
{
    head_change(at, value, bytes, -EINVAL, name, text);
}

static void test_head_bounds(void)
{
    head_change(12, 2, 2, -ENOTSUP, "version", "2");
    head_change(12, 0, 2, -ENOTSUP, "version", "0");
    head_change(14, 1, 2, -ENOTSUP, "features", "0x1");
    head_change(14, 0x8000, 2, -ENOTSUP, "features", "0x8000");

    head_good(48, 64 * (uint64_t)TiB, 8);
    head_bad(48, 64 * (uint64_t)TiB + 1, 8, "disk", "70368744177665");
    head_bad(48, UINT64_MAX, 8, "disk", "18446744073709551615");

    head_good(68, 1024, 4);
    head_bad(68, 1025, 4, "number", "1025");
    head_bad(68, UINT32_MAX, 4, "number", "4294967295");

    /* 5000 bytes take two pages, behind the head and before the end. */
    head_good(56, HEAD + 1, 4);
    head_bad(56, HEAD, 4, "page", "256");
    head_bad(56, 1, 4, "page", "1");
    head_bad(56, 0, 4, "page", "0");
    head_good(56, PAGES - 2, 4);
    head_bad(56, PAGES - 1, 4, "page", "511");
    head_bad(56, PAGES, 4, "page", "512");
    head_bad(56, PAGES + 1, 4, "page", "513");
    head_bad(56, UINT32_MAX, 4, "page", "4294967295");

    head_bad(60, 0, 4, "directory", "0");
    head_good(60, 212 * PAGE, 4);
    head_bad(60, 212 * PAGE + 1, 4, "directory", "868353");
    head_bad(60, UINT32_MAX, 4, "directory", "4294967295");

    /* Where there is none, what is said of it does not count. */
    for (unsigned at = 56; at < 64; at += 4) {
        uint8_t buf[PAGE];
        VHDXDirtyHead head;

        head_put(buf);
        put_le(buf + 68, 0, 4);
        put_le(buf + at, UINT32_MAX, 4);
        head_seal(buf);
        g_assert_cmpint(vhdx_dirty_head_decode(buf, HEAD, PAGES, &head,
                                               &error_abort), ==, 0);
        g_assert_cmpuint(head.directory_page, ==, 0);
        g_assert_cmpuint(head.directory_bytes, ==, 0);
    }
}

/* A directory may have 1 MiB, where the region is long enough. */
static void test_head_directory(void)
{
    uint8_t buf[PAGE];
    VHDXDirtyHead head;
    Error *err = NULL;

    head_put(buf);
    put_le(buf + 60, MiB, 4);
    head_seal(buf);
    g_assert_cmpint(vhdx_dirty_head_decode(buf, HEAD, 4 * PAGES, &head,
                                           &error_abort), ==, 0);
    put_le(buf + 60, MiB + 1, 4);
    head_seal(buf);
    g_assert_cmpint(vhdx_dirty_head_decode(buf, HEAD, 4 * PAGES, &head, &err),
                    ==, -EINVAL);
    expect_error(err, "directory", "1048577");
}

static void test_head_checksum(void)
{
    uint8_t buf[PAGE];
    VHDXDirtyHead head;

    for (int i = 0; i < PAGE; i++) {
        Error *err = NULL;

        head_put(buf);
        buf[i] ^= 1 << i % 8;
        g_assert_cmpint(vhdx_dirty_head_decode(buf, HEAD, PAGES, &head, &err),
                        ==, -EINVAL);
        expect_error(err, "head", "checksum");
    }
}

/* -- Maps -- */

/* How many pages of bits, and bytes of memory, going over the disk finds */
static void walk_disk(uint64_t disk_size, unsigned granularity)
{
    uint64_t pages = 0, granules = 0, in_page = PAGE_BITS;

    for (uint64_t at = 0; at < disk_size; at += 1ULL << granularity) {
        if (in_page == PAGE_BITS) {
            pages++;
            in_page = 0;
        }
        in_page++;
        granules++;
    }
    g_assert_cmpuint(vhdx_dirty_map_count(disk_size, granularity), ==, pages);
    g_assert_cmpuint(vhdx_dirty_bits_bytes(disk_size, granularity), ==,
                     granules / 8 + (granules % 8 != 0));
}

static void test_map_count(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);

    for (unsigned granularity = 9; granularity <= 31; granularity++) {
        uint64_t granule = 1ULL << granularity;
        uint64_t page = granule * PAGE_BITS;

        for (int i = -1; i <= 1; i++) {
            walk_disk(granule * 2 + i * 512, granularity);
            walk_disk(MIN(page + i * 512, 64 * (uint64_t)TiB), granularity);
            walk_disk(MIN(2 * page + i * 512, 64 * (uint64_t)TiB), granularity);
        }
        walk_disk(0, granularity);
        walk_disk(512, granularity);
        for (int i = 0; i < 5; i++) {
            walk_disk(rand64(rand) % MIN(3 * page, 64 * (uint64_t)TiB),
                      granularity);
        }
    }
}

/* The largest disk in numbers that are known */
static void test_map_largest(void)
{
    static const struct {
        unsigned granularity;
        uint64_t pages;
        uint64_t bytes;
    } known[] = {
        { 9, 4 * MiB, 16 * GiB },
        { 14, 128 * KiB, 512 * MiB },
        { 16, 32 * KiB, 128 * MiB },
        { 17, 16 * KiB, 64 * MiB },
        { 20, 2 * KiB, 8 * MiB },
        { 31, 1, 4 * KiB },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
        unsigned granularity = known[i].granularity;

        g_assert_cmpuint(vhdx_dirty_map_count(64 * (uint64_t)TiB, granularity),
                         ==, known[i].pages);
        g_assert_cmpuint(vhdx_dirty_bits_bytes(64 * (uint64_t)TiB, granularity),
                         ==, known[i].bytes);
        g_assert_cmpuint(vhdx_dirty_map_count(64 * (uint64_t)TiB - 512,
                                              granularity), ==, known[i].pages);
    }
}

static void test_map(void)
{
    const VHDXDirtyMap map[] = {
        { VHDX_DIRTY_ZEROS, 0 }, { VHDX_DIRTY_ONES, 0 }, { HEAD + 1, 5 },
        { PAGES - 1, 0xfedcba98 },
    };
    static const uint8_t bytes[] = {
        0, 0, 0, 0, 0, 0, 0, 0,
        1, 0, 0, 0, 0, 0, 0, 0,
        1, 1, 0, 0, 5, 0, 0, 0,
        0xff, 1, 0, 0, 0x98, 0xba, 0xdc, 0xfe,
    };
    VHDXDirtyMap got[4];
    uint8_t buf[33];

    buf[32] = 0xaa;
    vhdx_dirty_map_encode(map, 4, buf);
    g_assert_cmpmem(buf, 32, bytes, 32);
    g_assert_cmphex(buf[32], ==, 0xaa);
    g_assert_cmpint(vhdx_dirty_map_decode(buf, 4, HEAD, PAGES, got,
                                          &error_abort), ==, 0);
    for (int i = 0; i < 4; i++) {
        g_assert_cmpuint(got[i].page, ==, map[i].page);
        g_assert_cmphex(got[i].crc, ==, map[i].crc);
    }

    /* Where there is no page its checksum is of no matter. */
    put_le(buf + 4, 7, 4);
    put_le(buf + 12, 8, 4);
    g_assert_cmpint(vhdx_dirty_map_decode(buf, 2, HEAD, PAGES, got,
                                          &error_abort), ==, 0);
    for (int i = 0; i < 2; i++) {
        g_assert_cmpuint(got[i].page, ==, map[i].page);
        g_assert_cmphex(got[i].crc, ==, 0);
    }

    /* A page may be named twice. */
    memcpy(buf + 24, buf + 16, 8);
    g_assert_cmpint(vhdx_dirty_map_decode(buf, 4, HEAD, PAGES, got,
                                          &error_abort), ==, 0);
    g_assert_cmpuint(got[2].page, ==, got[3].page);
    g_assert_cmphex(got[2].crc, ==, got[3].crc);
}

static void test_map_bounds(void)
{
    static const uint32_t bad[] = {
        2, 15, HEAD - 1, HEAD, PAGES, PAGES + 1, UINT32_MAX,
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *page = g_strdup_printf("page %u", bad[i]);
        uint8_t buf[24] = { 0 };
        VHDXDirtyMap got[3];
        Error *err = NULL;

        put_le(buf + 16, bad[i], 4);
        g_assert_cmpint(vhdx_dirty_map_decode(buf, 3, HEAD, PAGES, got, &err),
                        ==, -EINVAL);
        expect_error(err, "entry 2", page);
    }
}

/* -- Pages of bits -- */

static bool bit_get(const uint8_t *buf, uint32_t i)
{
    return buf[i / 8] & 1 << i % 8;
}

static void bit_set(uint8_t *buf, uint32_t i)
{
    buf[i / 8] |= 1 << i % 8;
}

/* Bit by bit, what a page is to have in its map */
static uint32_t slow_entry(const uint8_t *buf, uint32_t bits)
{
    uint32_t set = 0;

    for (uint32_t i = 0; i < bits; i++) {
        set += bit_get(buf, i);
    }
    return set == 0 ? VHDX_DIRTY_ZEROS : set == bits ? VHDX_DIRTY_ONES : 2;
}

static void check_entry(const uint8_t *buf, uint32_t bits)
{
    uint32_t want = slow_entry(buf, bits);
    VHDXDirtyMap entry = { 99, slow_crc32c(buf, PAGE) };

    g_assert_cmpint(vhdx_dirty_page_plain(buf, bits, &entry), ==, want != 2);
    if (want != 2) {
        g_assert_cmpuint(entry.page, ==, want);
        g_assert_cmphex(entry.crc, ==, 0);
        return;
    }
    g_assert_cmpuint(entry.page, ==, 99);
    g_assert_true(vhdx_dirty_page_valid(buf, bits, &entry));
    entry.crc ^= 0x80000000;
    g_assert_false(vhdx_dirty_page_valid(buf, bits, &entry));
}

/* A bit behind the end is no more right for its checksum. */
static void check_behind(uint8_t *buf, uint32_t bits, uint32_t bit)
{
    uint8_t changed[PAGE];
    VHDXDirtyMap entry = { 300, 0 };

    memcpy(changed, buf, PAGE);
    bit_set(changed, bit);
    entry.crc = slow_crc32c(changed, PAGE);
    g_assert_false(vhdx_dirty_page_valid(changed, bits, &entry));
    vhdx_dirty_page_trim(changed, bits);
    g_assert_cmpmem(changed, PAGE, buf, PAGE);
}

static void check_page(uint32_t bits, GRand *rand)
{
    uint8_t buf[PAGE] = { 0 }, all[PAGE];

    check_entry(buf, bits);
    for (uint32_t i = 0; i < bits; i++) {
        bit_set(buf, i);
    }
    check_entry(buf, bits);
    memset(all, 0xff, PAGE);
    vhdx_dirty_page_trim(all, bits);
    g_assert_cmpmem(all, PAGE, buf, PAGE);

    /* All but one: the first, the last, or any other */
    for (int i = 0; i < 3; i++) {
        uint32_t bit = i == 0 ? 0 : i == 1 ? bits - 1 :
                       g_rand_int_range(rand, 0, bits);

        buf[bit / 8] ^= 1 << bit % 8;
        check_entry(buf, bits);
        buf[bit / 8] ^= 1 << bit % 8;

        memset(all, 0, PAGE);
        bit_set(all, bit);
        check_entry(all, bits);
        if (bits < PAGE_BITS) {
            check_behind(all, bits, bits);
            check_behind(all, bits, PAGE_BITS - 1);
            check_behind(all, bits, g_rand_int_range(rand, bits, PAGE_BITS));
        }
    }
}

static void test_page(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(2);

    for (uint32_t bits = 1; bits <= 80; bits++) {
        check_page(bits, rand);
        check_page(PAGE_BITS + 1 - bits, rand);
    }
    for (int i = 0; i < 100; i++) {
        check_page(g_rand_int_range(rand, 1, PAGE_BITS + 1), rand);
    }
}

/* -- Directory -- */

#define DISK        ((uint64_t)GiB)     /* a map of one page */
#define NAMES_MAX   1023

/* Append an entry; returns where it is. */
static uint32_t entry_add(GByteArray *dir, const char *name, size_t length,
                          uint8_t granularity, uint8_t flags, uint32_t page,
                          uint32_t crc)
{
    uint32_t at = dir->len;
    uint32_t bytes = 16 + length;

    while (bytes % 8) {
        bytes++;
    }
    g_byte_array_set_size(dir, at + bytes);
    memset(dir->data + at, 0, bytes);
    put_le(dir->data + at, bytes, 4);
    dir->data[at + 4] = granularity;
    dir->data[at + 5] = flags;
    put_le(dir->data + at + 6, length, 2);
    put_le(dir->data + at + 8, page, 4);
    put_le(dir->data + at + 12, crc, 4);
    memcpy(dir->data + at + 16, name, length);
    return at;
}

static GPtrArray *dir_decode(const GByteArray *dir, uint32_t count,
                             Error **errp)
{
    /* An overrun shows under the address sanitizer. */
    g_autofree uint8_t *buf = g_memdup2(dir->data, dir->len);
    VHDXDirtyHead head = {
        .disk_size = DISK,
        .directory_page = 300,
        .directory_bytes = dir->len,
        .directory_crc = slow_crc32c(dir->data, dir->len),
        .count = count,
    };

    return vhdx_dirty_directory_decode(buf, &head, HEAD, PAGES, errp);
}

static void dir_bad(const GByteArray *dir, uint32_t count, const char *name,
                    const char *text)
{
    Error *err = NULL;

    g_assert_null(dir_decode(dir, count, &err));
    expect_error(err, name, text);
}

static void expect_bitmap(GPtrArray *list, guint i, const char *name,
                          unsigned granularity, bool enabled, bool inconsistent)
{
    VHDXDirtyBitmap *b = g_ptr_array_index(list, i);

    g_assert_cmpstr(b->name, ==, name);
    g_assert_cmpuint(b->granularity, ==, granularity);
    g_assert_cmpint(b->enabled, ==, enabled);
    g_assert_cmpint(b->inconsistent, ==, inconsistent);
    g_assert_null(b->map);
    if (inconsistent) {
        g_assert_cmpuint(b->map_count, ==, 0);
    }
    g_assert_true(vhdx_dirty_list_find(list, name) == b);
}

static void test_directory(void)
{
    g_autoptr(GByteArray) dir = g_byte_array_new();
    g_autoptr(GPtrArray) list = NULL;
    g_autofree uint8_t *again = NULL;
    VHDXDirtyBitmap *b;

    entry_add(dir, "a", 1, 16, 1, 300, 0x12345678);
    entry_add(dir, "12345678", 8, 9, 0, HEAD + 1, 0xffffffff);
    entry_add(dir, "\xc3\xa4 b", 4, 31, 2, 0, 0);
    entry_add(dir, "123456789", 9, 20, 3, 0, 0);
    list = dir_decode(dir, 4, &error_abort);
    g_assert_cmpuint(list->len, ==, 4);
    expect_bitmap(list, 0, "a", 16, true, false);
    expect_bitmap(list, 1, "12345678", 9, false, false);
    expect_bitmap(list, 2, "\xc3\xa4 b", 31, false, true);
    expect_bitmap(list, 3, "123456789", 20, true, true);
    g_assert_null(vhdx_dirty_list_find(list, "1234567"));
    b = g_ptr_array_index(list, 0);
    g_assert_cmpuint(b->map_page, ==, 300);
    g_assert_cmphex(b->map_crc, ==, 0x12345678);
    g_assert_cmpuint(b->map_count, ==, 1);
    b = g_ptr_array_index(list, 1);
    g_assert_cmpuint(b->map_count, ==, 64);

    g_assert_cmpuint(vhdx_dirty_directory_bytes(list), ==, dir->len);
    again = g_malloc(dir->len + 1);
    memset(again, 0xaa, dir->len + 1);
    vhdx_dirty_directory_encode(list, again);
    g_assert_cmpmem(again, dir->len, dir->data, dir->len);
    g_assert_cmphex(again[dir->len], ==, 0xaa);
}

/* An entry may have more than its name, and the directory more than entries. */
static void test_directory_longer(void)
{
    g_autoptr(GByteArray) dir = g_byte_array_new();
    g_autoptr(GPtrArray) list = NULL;
    uint32_t at = entry_add(dir, "a", 1, 16, 1, 300, 5);

    g_byte_array_set_size(dir, dir->len + 64);
    memset(dir->data + dir->len - 64, 0x55, 64);
    put_le(dir->data + at, 24 + 64, 4);
    entry_add(dir, "b", 1, 17, 0, 301, 6);
    entry_add(dir, "c", 1, 17, 0, 301, 6);
    list = dir_decode(dir, 2, &error_abort);
    g_assert_cmpuint(list->len, ==, 2);
    expect_bitmap(list, 0, "a", 16, true, false);
    expect_bitmap(list, 1, "b", 17, false, false);
}

/* The second of three entries, with @bytes bytes of @value at @at */
static GByteArray *dir_change(uint32_t at, uint64_t value, int bytes)
{
    GByteArray *dir = g_byte_array_new();
    uint32_t second;

    entry_add(dir, "first", 5, 16, 1, 300, 5);
    second = entry_add(dir, "second", 6, 16, 1, 301, 6);
    entry_add(dir, "third", 5, 16, 1, 302, 7);
    put_le(dir->data + second + at, value, bytes);
    return dir;
}

static void entry_bad(uint32_t at, uint64_t value, int bytes)
{
    g_autoptr(GByteArray) dir = dir_change(at, value, bytes);

    dir_bad(dir, 3, "entry 1", "directory");
}

/* What can't be an entry leaves no bitmap known. */
static void test_entry_bad(void)
{
    /* Its length: no multiple of 8, too short for the name, too long */
    static const uint32_t lengths[] = {
        0, 8, 16, 17, 20, 23, 25, 28, 56, 0x80000000, UINT32_MAX - 7,
        UINT32_MAX,
    };

    for (size_t i = 0; i < G_N_ELEMENTS(lengths); i++) {
        entry_bad(0, lengths[i], 4);
    }
    /* Its granularity */
    entry_bad(4, 0, 1);
    entry_bad(4, 8, 1);
    entry_bad(4, 32, 1);
    entry_bad(4, 255, 1);
    /* Its name: empty, too long for the entry, or for any */
    entry_bad(6, 0, 2);
    entry_bad(6, 9, 2);
    entry_bad(6, 1024, 2);
    entry_bad(6, 65535, 2);
    /* ... with NUL, also as the last byte, or not UTF-8 */
    entry_bad(16, 0, 1);
    entry_bad(18, 0, 1);
    entry_bad(21, 0, 1);
    entry_bad(6, 7, 2);
    entry_bad(16, 0xff, 1);
    entry_bad(16, 0x80, 1);
    entry_bad(21, 0xc3, 1);
    entry_bad(16, 0x80c0, 2);
    entry_bad(16, 0x80a0ed, 3);
}

/* Where the directory ends before the entry does */
static void test_entry_truncated(void)
{
    g_autoptr(GByteArray) dir = dir_change(0, 24, 4);

    for (uint32_t left = dir->len - 1; left > 48; left--) {
        g_byte_array_set_size(dir, left);
        dir_bad(dir, 3, "entry 2", "directory");
    }
    g_byte_array_set_size(dir, 48);
    dir_bad(dir, 3, "entry 2", "directory");
    g_ptr_array_unref(dir_decode(dir, 2, &error_abort));
}

static void test_directory_checksum(void)
{
    g_autoptr(GByteArray) dir = dir_change(0, 24, 4);
    VHDXDirtyHead head = {
        .disk_size = DISK, .directory_bytes = dir->len, .count = 3,
    };
    Error *err = NULL;

    head.directory_crc = slow_crc32c(dir->data, dir->len) ^ 1;
    g_assert_null(vhdx_dirty_directory_decode(dir->data, &head, HEAD, PAGES,
                                              &err));
    expect_error(err, "directory", "checksum");
}

static void test_names(void)
{
    g_autofree char *longest = g_strnfill(NAMES_MAX + 1, 'x');
    g_autoptr(GByteArray) dir = g_byte_array_new();
    g_autoptr(GPtrArray) list = NULL;

    entry_add(dir, longest, NAMES_MAX, 16, 1, 300, 5);
    entry_add(dir, "x", 1, 16, 1, 300, 5);
    entry_add(dir, "X", 1, 16, 1, 300, 5);
    list = dir_decode(dir, 3, &error_abort);
    g_assert_cmpuint(strlen(((VHDXDirtyBitmap *)list->pdata[0])->name), ==,
                     NAMES_MAX);
    entry_add(dir, longest, NAMES_MAX + 1, 16, 1, 300, 5);
    dir_bad(dir, 4, "entry 3", "directory");

    g_byte_array_set_size(dir, 0);
    entry_add(dir, "same", 4, 16, 1, 300, 5);
    entry_add(dir, "other", 5, 16, 1, 300, 5);
    entry_add(dir, "same", 4, 20, 0, 301, 6);
    dir_bad(dir, 3, "two", "'same'");
    g_ptr_array_unref(dir_decode(dir, 2, &error_abort));
}

/* As many as there may be, with the shortest names that are not alike */
static void test_directory_full(void)
{
    g_autoptr(GByteArray) dir = g_byte_array_new();
    g_autoptr(GPtrArray) list = NULL;

    for (int i = 0; i < 1024; i++) {
        g_autofree char *name = g_strdup_printf("%d", i);

        entry_add(dir, name, strlen(name), 16, i % 2, 300, i);
    }
    list = dir_decode(dir, 1024, &error_abort);
    g_assert_cmpuint(list->len, ==, 1024);
    for (int i = 0; i < 1024; i++) {
        g_autofree char *name = g_strdup_printf("%d", i);

        expect_bitmap(list, i, name, 16, i % 2, false);
    }
    g_assert_cmpuint(vhdx_dirty_directory_bytes(list), ==, dir->len);
    dir_bad(dir, 1025, "entry 1024", "directory");
}

/* The bitmap alone is inconsistent, or is not, for what its entry has. */
static void entry_inconsistent(uint32_t at, uint64_t value, int bytes,
                               bool want)
{
    g_autoptr(GByteArray) dir = dir_change(at, value, bytes);
    g_autoptr(GPtrArray) list = dir_decode(dir, 3, &error_abort);

    g_assert_cmpuint(list->len, ==, 3);
    expect_bitmap(list, 0, "first", 16, true, false);
    g_assert_cmpint(((VHDXDirtyBitmap *)list->pdata[1])->inconsistent, ==,
                    want);
    expect_bitmap(list, 2, "third", 16, true, false);
}

static void test_entry_inconsistent(void)
{
    for (int flags = 0; flags < 256; flags++) {
        entry_inconsistent(5, flags, 1, flags > 1);
    }
    entry_inconsistent(8, 0, 4, true);
    entry_inconsistent(8, 1, 4, true);
    entry_inconsistent(8, HEAD, 4, true);
    entry_inconsistent(8, HEAD + 1, 4, false);
    entry_inconsistent(8, PAGES - 1, 4, false);
    entry_inconsistent(8, PAGES, 4, true);
    entry_inconsistent(8, UINT32_MAX, 4, true);
}

/* A map that ends behind the region, and bits that take too much memory */
static void test_entry_large(void)
{
    static const struct {
        uint64_t disk;
        unsigned granularity;
        uint32_t page;
        uint32_t pages;             /* of the region */
        uint32_t count;             /* 0: inconsistent */
    } known[] = {
        /* 513 entries take two pages. */
        { 8 * (uint64_t)GiB + 512, 9, PAGES - 2, PAGES, 513 },
        { 8 * (uint64_t)GiB + 512, 9, PAGES - 1, PAGES, 0 },
        { 8 * (uint64_t)GiB, 9, PAGES - 1, PAGES, 512 },
        /* 512 MiB of bits, and a byte more */
        { 2 * (uint64_t)TiB, 9, HEAD + 1, HEAD + 257, 131072 },
        { 2 * (uint64_t)TiB + 512, 9, HEAD + 1, 4 * PAGES, 0 },
        { 64 * (uint64_t)TiB, 14, HEAD + 1, HEAD + 257, 131072 },
        { 64 * (uint64_t)TiB, 13, HEAD + 1, 4 * PAGES, 0 },
        /* ... whose map is a page too long for the region */
        { 2 * (uint64_t)TiB, 9, HEAD + 1, HEAD + 256, 0 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
        g_autoptr(GByteArray) dir = g_byte_array_new();
        g_autoptr(GPtrArray) list = NULL;
        VHDXDirtyHead head = { .disk_size = known[i].disk, .count = 1 };
        VHDXDirtyBitmap *b;

        entry_add(dir, "a", 1, known[i].granularity, 1, known[i].page, 5);
        head.directory_bytes = dir->len;
        head.directory_crc = slow_crc32c(dir->data, dir->len);
        list = vhdx_dirty_directory_decode(dir->data, &head, HEAD,
                                           known[i].pages, &error_abort);
        b = g_ptr_array_index(list, 0);
        g_assert_cmpint(b->inconsistent, ==, !known[i].count);
        g_assert_cmpuint(b->map_count, ==, known[i].count);
    }
}

static void test_bytes(void)
{
    for (uint32_t bytes = 0; bytes <= NAMES_MAX; bytes++) {
        uint32_t want = 16;

        while (want < 16 + bytes) {
            want += 8;
        }
        g_assert_cmpuint(vhdx_dirty_entry_bytes(bytes), ==, want);
    }
    g_assert_cmpuint(vhdx_dirty_pages(0), ==, 0);
    g_assert_cmpuint(vhdx_dirty_pages(1), ==, 1);
    g_assert_cmpuint(vhdx_dirty_pages(4096), ==, 1);
    g_assert_cmpuint(vhdx_dirty_pages(4097), ==, 2);
}

static void test_crc(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(3);
    uint8_t buf[600];

    g_assert_cmphex(vhdx_dirty_crc((const uint8_t *)"123456789", 9), ==,
                    0xe3069283);
    for (size_t bytes = 0; bytes < sizeof(buf); bytes++) {
        rand_fill(rand, buf, bytes);
        g_assert_cmphex(vhdx_dirty_crc(buf, bytes), ==,
                        slow_crc32c(buf, bytes));
    }
}

/* -- Places -- */

/* The first of @count pages in a row that may be taken, or 0 */
static uint32_t slow_place(const VHDXDirtyPlaces *p, uint32_t count)
{
    for (uint32_t at = p->next; at + count <= p->end; at++) {
        bool free = true;

        for (uint32_t i = at; i < at + count; i++) {
            free &= i < p->keep || i >= p->keep_end;
        }
        if (free) {
            return at;
        }
    }
    return 0;
}

/* All regions of up to 10 pages, with all places of a directory in them */
static void test_place(void)
{
    for (uint32_t start = 1; start <= 10; start++) {
        for (uint32_t end = start; end <= 10; end++) {
            for (uint32_t keep = 0; keep <= 10; keep++) {
                for (uint32_t to = keep; to <= 10; to++) {
                    for (uint32_t count = 1; count <= 10; count++) {
                        VHDXDirtyPlaces p = { start, end, keep, to };
                        uint32_t want = slow_place(&p, count);

                        g_assert_cmpuint(vhdx_dirty_place(&p, count), ==, want);
                        g_assert_cmpuint(p.next, ==, want ? want + count :
                                         start);
                    }
                }
            }
        }
    }
}

/* Places that are taken one after the other: none twice, none that is kept */
static void test_places(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(4);

    for (int i = 0; i < 10000; i++) {
        uint32_t keep = g_rand_int_range(rand, 1, 40);
        VHDXDirtyPlaces p = {
            .next = g_rand_int_range(rand, 1, 20),
            .end = 40,
            .keep = keep,
            .keep_end = g_rand_int_range(rand, keep, 41),
        };
        bool used[40] = { false };

        memset(used + p.keep, true, p.keep_end - p.keep);
        memset(used, true, p.next);
        for (int j = 0; j < 20; j++) {
            uint32_t count = g_rand_int_range(rand, 1, 5);
            uint32_t at = vhdx_dirty_place(&p, count);

            for (uint32_t k = at; at && k < at + count; k++) {
                g_assert_cmpuint(k, <, 40);
                g_assert_false(used[k]);
                used[k] = true;
            }
        }
    }
}

/* Numbers near the end of their type */
static void test_place_large(void)
{
    VHDXDirtyPlaces p = { .next = HEAD + 1, .end = 32768 };

    g_assert_cmpuint(vhdx_dirty_place(&p, UINT32_MAX), ==, 0);
    g_assert_cmpuint(vhdx_dirty_place(&p, 32768 - HEAD), ==, 0);
    g_assert_cmpuint(vhdx_dirty_place(&p, 32767 - HEAD), ==, HEAD + 1);
    g_assert_cmpuint(vhdx_dirty_place(&p, 1), ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    g_test_add_func("/vhdx/dirty-area/head/known", test_head);
    g_test_add_func("/vhdx/dirty-area/head/found", test_head_found);
    g_test_add_func("/vhdx/dirty-area/head/bounds", test_head_bounds);
    g_test_add_func("/vhdx/dirty-area/head/directory", test_head_directory);
    g_test_add_func("/vhdx/dirty-area/head/checksum", test_head_checksum);

    g_test_add_func("/vhdx/dirty-area/map/count", test_map_count);
    g_test_add_func("/vhdx/dirty-area/map/largest", test_map_largest);
    g_test_add_func("/vhdx/dirty-area/map/known", test_map);
    g_test_add_func("/vhdx/dirty-area/map/bounds", test_map_bounds);
    g_test_add_func("/vhdx/dirty-area/page", test_page);

    g_test_add_func("/vhdx/dirty-area/directory/known", test_directory);
    g_test_add_func("/vhdx/dirty-area/directory/longer",
                    test_directory_longer);
    g_test_add_func("/vhdx/dirty-area/directory/checksum",
                    test_directory_checksum);
    g_test_add_func("/vhdx/dirty-area/directory/full", test_directory_full);
    g_test_add_func("/vhdx/dirty-area/entry/bad", test_entry_bad);
    g_test_add_func("/vhdx/dirty-area/entry/truncated", test_entry_truncated);
    g_test_add_func("/vhdx/dirty-area/entry/names", test_names);
    g_test_add_func("/vhdx/dirty-area/entry/inconsistent",
                    test_entry_inconsistent);
    g_test_add_func("/vhdx/dirty-area/entry/large", test_entry_large);
    g_test_add_func("/vhdx/dirty-area/bytes", test_bytes);
    g_test_add_func("/vhdx/dirty-area/crc", test_crc);

    g_test_add_func("/vhdx/dirty-area/place/all", test_place);
    g_test_add_func("/vhdx/dirty-area/place/row", test_places);
    g_test_add_func("/vhdx/dirty-area/place/large", test_place_large);

    return g_test_run();
}
