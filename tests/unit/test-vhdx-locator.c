/*
 * VHDX unit tests: the Parent Locator
 *
 * Locators are made here from lists of keys and values.  Each reason to call
 * one damaged has a test that spoils one thing in a good one.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/locator.h"
#include "vhdx-test-util.h"

#define LOCATOR_TYPE    "B04AEFB7-D19E-4A81-B789-25B8E9445913"
#define LINKAGE         "{01020304-0506-0708-090A-0B0C0D0E0F10}"

/* A pair as text of ASCII characters */
typedef struct Pair {
    const char *key;
    const char *value;
} Pair;

/* Put @text behind the locator and its place into the entry. */
static void put_text(GByteArray *loc, uint32_t entry, int place_at,
                     int length_at, const char *text)
{
    put_le(loc->data + entry + place_at, loc->len, 4);
    put_le(loc->data + entry + length_at, strlen(text) * 2, 2);
    for (; *text; text++) {
        const uint8_t unit[2] = { *text, 0 };

        g_byte_array_append(loc, unit, 2);
    }
}

static GByteArray *locator_new(const Pair *pairs, int count)
{
    GByteArray *loc = g_byte_array_new();

    g_byte_array_set_size(loc, 20 + 12 * count);
    memset(loc->data, 0, loc->len);
    put_guid(loc->data, LOCATOR_TYPE);
    put_le(loc->data + 18, count, 2);
    for (int i = 0; i < count; i++) {
        put_text(loc, 20 + 12 * i, 0, 8, pairs[i].key);
        put_text(loc, 20 + 12 * i, 4, 10, pairs[i].value);
    }
    return loc;
}

/* Decode @loc, which is good. */
static VHDXLocator *decode(const GByteArray *loc)
{
    VHDXLocator *got = vhdx_locator_decode(loc->data, loc->len, &error_abort);

    g_assert_nonnull(got);
    return got;
}

static VHDXLocator *decode_pairs(const Pair *pairs, int count)
{
    g_autoptr(GByteArray) loc = locator_new(pairs, count);

    return decode(loc);
}

static void refuse(const GByteArray *loc, const char *name, const char *value)
{
    Error *err = NULL;

    g_assert_null(vhdx_locator_decode(loc->data, loc->len, &err));
    expect_error(err, name, value);
}

static void refuse_pairs(const Pair *pairs, int count, const char *name,
                         const char *value)
{
    g_autoptr(GByteArray) loc = locator_new(pairs, count);

    refuse(loc, name, value);
}

/* The same with @bytes bytes of @value at @at of a good one. */
static void refuse_change(uint32_t at, uint64_t value, int bytes,
                          const char *name, const char *text)
{
    static const Pair pairs[] = {
        { "parent_linkage", LINKAGE }, { "relative_path", ".\\a.vhdx" },
    };
    g_autoptr(GByteArray) loc = locator_new(pairs, 2);

    put_le(loc->data + at, value, bytes);
    refuse(loc, name, text);
}

static void expect_guid(const VHDXGuid *guid, const char *text)
{
    uint8_t raw[16];

    vhdx_guid_encode(guid, raw);
    g_assert_true(guid_is(raw, text));
}

/* The item of a child that Windows 10 has made: keys, their order, places */
static void test_windows(void)
{
    static const Pair pairs[] = {
        { "parent_linkage", "{f88d4d92-6fcc-408d-9bef-9b7c89f15c89}" },
        { "absolute_win32_path",
          "C:\\Projects\\tests\\test-data\\fat-parent.vhdx" },
        { "relative_path", ".\\fat-parent.vhdx" },
        { "volume_path", "\\\\?\\Volume{5e0b4b3f-0000-0000-0000-100000000000}"
          "\\Projects\\tests\\test-data\\fat-parent.vhdx" },
        { "parent_linkage2", "{00000000-0000-0000-0000-000000000000}" },
    };
    static const uint8_t header[20] = {
        0xb7, 0xef, 0x4a, 0xb0, 0x9e, 0xd1, 0x81, 0x4a,
        0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13, 0, 0, 5, 0
    };
    /* a key at 80 behind all entries, its value directly behind the key */
    static const uint8_t first[12] = {
        80, 0, 0, 0, 108, 0, 0, 0, 28, 0, 76, 0
    };
    g_autoptr(GByteArray) item = locator_new(pairs, G_N_ELEMENTS(pairs));
    g_autoptr(VHDXLocator) loc = decode(item);

    g_assert_cmpint(item->len, ==, 674);
    g_assert_cmpmem(item->data, 20, header, 20);
    g_assert_cmpmem(item->data + 20, 12, first, 12);
    g_assert_cmpmem(item->data + 80, 8, "p\0a\0r\0e\0", 8);
    g_assert_cmpmem(item->data + 108, 8, "{\0f\0008\0008\0", 8);
    expect_guid(&loc->linkage, "F88D4D92-6FCC-408D-9BEF-9B7C89F15C89");
    g_assert_true(vhdx_guid_is_nil(&loc->linkage2));
    g_assert_cmpstr(loc->relative_path, ==, pairs[2].value);
    g_assert_cmpstr(loc->volume_path, ==, pairs[3].value);
    g_assert_cmpstr(loc->absolute_win32_path, ==, pairs[1].value);
}

/* One path is enough, whichever; linkage2 need not be there. */
static void test_one(void)
{
    static const char *const keys[] = {
        "relative_path", "volume_path", "absolute_win32_path"
    };

    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        const Pair pairs[] = {
            { "parent_linkage", LINKAGE }, { keys[i], "C:\\a b.vhdx" }
        };
        g_autoptr(VHDXLocator) loc = decode_pairs(pairs, 2);

        g_assert_cmpstr(loc->relative_path, ==, i == 0 ? pairs[1].value : NULL);
        g_assert_cmpstr(loc->volume_path, ==, i == 1 ? pairs[1].value : NULL);
        g_assert_cmpstr(loc->absolute_win32_path, ==,
                        i == 2 ? pairs[1].value : NULL);
        expect_guid(&loc->linkage, "01020304-0506-0708-090A-0B0C0D0E0F10");
        g_assert_true(vhdx_guid_is_nil(&loc->linkage2));
    }
}

/* Neither the order of entries nor keys that nobody knows mean anything. */
static void test_order(void)
{
    static const Pair all[] = {
        { "relative_path", "r" }, { "absolute_win32_path", "a" },
        { "volume_path", "v" }, { "parent_linkage", LINKAGE },
        { "parent_linkage2", "{0f000000-0000-0000-0000-000000000001}" },
        { "Relative_path", "x" }, { "Relative_path", "y" },
    };

    for (int first = 0; first < G_N_ELEMENTS(all); first++) {
        g_autoptr(VHDXLocator) loc = NULL;
        Pair pairs[G_N_ELEMENTS(all)];

        for (int i = 0; i < G_N_ELEMENTS(all); i++) {
            pairs[i] = all[(first + i) % G_N_ELEMENTS(all)];
        }
        loc = decode_pairs(pairs, G_N_ELEMENTS(all));
        g_assert_cmpstr(loc->relative_path, ==, "r");
        g_assert_cmpstr(loc->volume_path, ==, "v");
        g_assert_cmpstr(loc->absolute_win32_path, ==, "a");
        expect_guid(&loc->linkage, "01020304-0506-0708-090A-0B0C0D0E0F10");
        expect_guid(&loc->linkage2, "0F000000-0000-0000-0000-000000000001");
    }
}

/* Keys that are like a path's are none. */
static void test_no_path(void)
{
    static const Pair pairs[] = {
        { "parent_linkage", LINKAGE }, { "relative_pat", "x" },
        { "relative_path2", "x" }, { "Relative_path", "x" },
    };

    for (int count = 1; count <= G_N_ELEMENTS(pairs); count++) {
        refuse_pairs(pairs, count, "no path", "");
    }
}

static void test_no_linkage(void)
{
    static const Pair pairs[] = {
        { "relative_path", "r" }, { "parent_linkage2", LINKAGE },
        { "Parent_linkage", LINKAGE },
    };

    for (int count = 0; count <= G_N_ELEMENTS(pairs); count++) {
        refuse_pairs(pairs, count, "no parent_linkage", "");
    }
}

/* What a linkage may look like, and what not; the same goes for linkage2 */
static void test_linkage(void)
{
    static const char *const bad[] = {
        "01020304-0506-0708-090A-0B0C0D0E0F10", "{}", "x",
        "{01020304-0506-0708-090A-0B0C0D0E0F1}",
        "{01020304-0506-0708-090A-0B0C0D0E0F101}",
        "{010203040-506-0708-090A-0B0C0D0E0F10}",
        "{01020304050607080-90A0-B0C0D0E0F1000}",
        "{0102030g-0506-0708-090A-0B0C0D0E0F10}",
        "{ 1020304-0506-0708-090A-0B0C0D0E0F10}",
        "{0x020304-0506-0708-090A-0B0C0D0E0F10}",
        "(01020304-0506-0708-090A-0B0C0D0E0F10)",
        "{01020304-0506-0708-090A-0B0C0D0E0F10]",
        "{01020304-0506-0708-090A-0B0C0D0E0F10} ",
        " {01020304-0506-0708-090A-0B0C0D0E0F10",
    };
    Pair pairs[] = {
        { "relative_path", "r" }, { "parent_linkage", NULL },
        { "parent_linkage2", NULL },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *value = g_strdup_printf("'%s'", bad[i]);

        pairs[1].value = bad[i];
        refuse_pairs(pairs, 2, "its parent_linkage of", value);
        pairs[1].value = LINKAGE;
        pairs[2].value = bad[i];
        refuse_pairs(pairs, 3, "its parent_linkage2 of", value);
    }
}

/* Upper and lower case, and the nil GUID, are as good. */
static void test_linkage_case(void)
{
    static const char *const good[] = {
        "{abcdefab-cdef-abcd-efab-cdefabcdefab}",
        "{ABCDEFAB-CDEF-ABCD-EFAB-CDEFABCDEFAB}",
        "{AbCdEfAb-cDeF-aBcD-EfAb-CdEfAbCdEfAb}",
    };
    Pair pairs[] = {
        { "relative_path", "r" }, { "parent_linkage", NULL },
        { "parent_linkage2", LINKAGE },
    };
    g_autoptr(VHDXLocator) nil = NULL;

    for (size_t i = 0; i < G_N_ELEMENTS(good); i++) {
        g_autoptr(VHDXLocator) loc = NULL;

        pairs[1].value = good[i];
        loc = decode_pairs(pairs, 3);
        expect_guid(&loc->linkage, "ABCDEFAB-CDEF-ABCD-EFAB-CDEFABCDEFAB");
        expect_guid(&loc->linkage2, "01020304-0506-0708-090A-0B0C0D0E0F10");
    }
    pairs[1].value = "{00000000-0000-0000-0000-000000000000}";
    nil = decode_pairs(pairs, 2);
    g_assert_true(vhdx_guid_is_nil(&nil->linkage));
}

/* Bytes that are no GUID's text, though the text shown is one */
static void test_linkage_units(void)
{
    static const Pair pairs[] = {
        { "relative_path", "r" }, { "parent_linkage", LINKAGE "xy" },
    };
    g_autoptr(GByteArray) loc = locator_new(pairs, 2);

    put_le(loc->data + loc->len - 4, 0, 4);
    refuse(loc, "its parent_linkage of 80 bytes", "'" LINKAGE "'");
    put_le(loc->data + loc->len - 4, 0xd800, 2);
    refuse(loc, "its parent_linkage is not", "UTF-16");
    /* A character of two bytes in UTF-8 instead of two of them */
    put_le(loc->data + 20 + 12 + 10, 37 * 2, 2);
    put_le(loc->data + loc->len - 6, 0xe9, 2);
    refuse(loc, "its parent_linkage of 74 bytes", "0F10");
}

/* Keys that are known may be there once. */
static void test_twice(void)
{
    static const char *const keys[] = {
        "parent_linkage", "parent_linkage2", "relative_path", "volume_path",
        "absolute_win32_path",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        const Pair pairs[] = {
            { keys[i], LINKAGE }, { "other", "x" }, { keys[i], LINKAGE },
        };
        g_autofree char *text = g_strdup_printf("key %s twice", keys[i]);

        refuse_pairs(pairs, 3, text, "");
    }
}

static void test_short(void)
{
    static const Pair pair = { "relative_path", "r" };

    for (int bytes = 0; bytes < 20; bytes++) {
        g_autoptr(GByteArray) loc = locator_new(&pair, 1);
        g_autofree char *text = g_strdup_printf(" %d byte%s", bytes,
                                                  bytes == 1 ? "" : "s");

        g_byte_array_set_size(loc, bytes);
        refuse(loc, "only", text);
    }
}

static void test_type(void)
{
    refuse_change(0, 0, 1, "LocatorType",
                  "b04aef00-d19e-4a81-b789-25b8e9445913");
}

/* More entries than there is room for */
static void test_count(void)
{
    static const Pair pair = { "relative_path", "r" };
    g_autoptr(GByteArray) loc = locator_new(&pair, 1);

    /* 12 for the entry, 28 for its texts: three entries fit in. */
    g_assert_cmpint(loc->len, ==, 20 + 12 + 28);
    put_le(loc->data + 18, 4, 2);
    refuse(loc, "KeyValueCount is 4", "60 bytes");
    put_le(loc->data + 18, 65535, 2);
    refuse(loc, "KeyValueCount is 65535", "60 bytes");
    refuse_change(18, 65535, 2, "KeyValueCount is 65535", "");
}

/* More entries than anything has; all but two have keys nobody knows. */
static void test_count_limit(void)
{
    Pair pairs[257];
    g_autoptr(VHDXLocator) loc = NULL;

    for (int i = 0; i < G_N_ELEMENTS(pairs); i++) {
        pairs[i] = (Pair) { "k", "v" };
    }
    pairs[0] = (Pair) { "parent_linkage", LINKAGE };
    pairs[255] = (Pair) { "relative_path", "r" };
    loc = decode_pairs(pairs, 256);
    g_assert_cmpstr(loc->relative_path, ==, "r");
    refuse_pairs(pairs, 257, "KeyValueCount is 257", "more than 256");
}

/* Places of the second entry: key and value, their offsets and lengths */
static void test_places(void)
{
    const uint32_t entry = 20 + 12;
    /* where the texts begin: entries, and texts of 14 and 38 characters */
    const uint32_t key = 20 + 2 * 12 + 2 * 14 + 2 * 38;
    const uint32_t value = key + 2 * 13;
    const uint32_t end = value + 2 * 8;

    refuse_change(entry, 0, 4, "entry 1 has a key", "offset 0");
    refuse_change(entry + 4, 0, 4, "entry 1 has a value", "offset 0");
    refuse_change(entry, end + 1, 4, "entry 1 has a key", "with length 26");
    refuse_change(entry, UINT32_MAX, 4, "entry 1 has a key", "4294967295");
    refuse_change(entry, end - 24, 4, "entry 1 has a key", "with length 26");
    refuse_change(entry + 8, 0, 2, "entry 1 has a key", "with length 0");
    refuse_change(entry + 8, 25, 2, "entry 1 has a key", "with length 25");
    refuse_change(entry + 10, 0, 2, "entry 1 has a value", "with length 0");
    refuse_change(entry + 10, 15, 2, "entry 1 has a value", "with length 15");
    refuse_change(entry + 10, 18, 2, "entry 1 has a value", "with length 18");
    refuse_change(entry + 10, 65534, 2, "entry 1 has a value", "65534");
    /* One that is not a path's has to be whole, too. */
    refuse_change(20 + 4, 0, 4, "entry 0 has a value", "offset 0");
}

/* What is said of @loc with @unit as the last one of its path, which is last */
static void spoil_end(GByteArray *loc, uint16_t unit, const char *name,
                      const char *value)
{
    put_le(loc->data + loc->len - 2, unit, 2);
    refuse(loc, name, value);
}

/* A path that is no text, or one that a terminal must not get as it is */
static void test_text(void)
{
    static const char *const keys[] = {
        "relative_path", "volume_path", "absolute_win32_path"
    };

    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        const Pair pairs[] = {
            { "parent_linkage", LINKAGE }, { keys[i], "ab" },
        };
        g_autoptr(GByteArray) loc = locator_new(pairs, 2);

        spoil_end(loc, 0xd800, keys[i], "not UTF-16");
        spoil_end(loc, 0xdc00, keys[i], "not UTF-16");
        spoil_end(loc, 0, keys[i], "has a NUL behind 'a'");
        spoil_end(loc, 0x1b, keys[i], "'a\xef\xbf\xbd'");
        spoil_end(loc, '\n', keys[i], "control characters: 'a\xef\xbf\xbd'");
        spoil_end(loc, 0x7f, keys[i], "'a\xef\xbf\xbd'");
        spoil_end(loc, 0x9f, keys[i], "'a\xef\xbf\xbd'");
        /* in front, too, where the text shown is empty */
        put_le(loc->data + loc->len - 4, 0, 2);
        refuse(loc, keys[i], "has a NUL behind ''");
    }
}

/* Characters that are no ASCII, also outside of the BMP; U+FFFD as such */
static void test_unicode(void)
{
    static const Pair pairs[] = {
        { "parent_linkage", LINKAGE }, { "relative_path", "abcd" },
    };
    g_autoptr(GByteArray) item = locator_new(pairs, 2);
    g_autoptr(VHDXLocator) loc = NULL;

    put_le(item->data + item->len - 8, 0xf6, 2);
    put_le(item->data + item->len - 6, 0xd83d, 2);
    put_le(item->data + item->len - 4, 0xdcbe, 2);
    put_le(item->data + item->len - 2, 0xfffd, 2);
    loc = decode(item);
    g_assert_cmpstr(loc->relative_path, ==,
                    "\xc3\xb6\xf0\x9f\x92\xbe\xef\xbf\xbd");
}

/* The longest text that an entry can name */
static void test_long(void)
{
    g_autofree char *path = g_strnfill(32767, 'x');
    const Pair pairs[] = {
        { "parent_linkage", LINKAGE }, { "volume_path", path },
    };
    g_autoptr(VHDXLocator) loc = decode_pairs(pairs, 2);

    g_assert_cmpstr(loc->volume_path, ==, path);
}

/* The same is the longest that is stored. */
static void test_store_long(void)
{
    g_autofree char *path = g_strnfill(32768, 'x');
    VHDXLocator loc = { .linkage = { { 1 } }, .relative_path = path };
    Error *err = NULL;
    uint32_t bytes;

    g_assert_null(vhdx_locator_encode(&loc, &bytes, &err));
    expect_error(err, "path of the parent is too long", "32768 UTF-16 units");
    path[32767] = '\0';
    for (int i = 0; i < 2; i++) {
        g_autoptr(VHDXLocator) got = NULL;
        g_autofree uint8_t *item = vhdx_locator_encode(&loc, &bytes,
                                                       &error_abort);

        got = vhdx_locator_decode(item, bytes, &error_abort);
        g_assert_cmpstr(got->relative_path, ==, path);
        path[32766] = '\0';
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    g_test_add_func("/vhdx/locator/windows", test_windows);
    g_test_add_func("/vhdx/locator/one", test_one);
    g_test_add_func("/vhdx/locator/order", test_order);
    g_test_add_func("/vhdx/locator/no-path", test_no_path);
    g_test_add_func("/vhdx/locator/no-linkage", test_no_linkage);
    g_test_add_func("/vhdx/locator/linkage", test_linkage);
    g_test_add_func("/vhdx/locator/linkage-case", test_linkage_case);
    g_test_add_func("/vhdx/locator/linkage-units", test_linkage_units);
    g_test_add_func("/vhdx/locator/twice", test_twice);
    g_test_add_func("/vhdx/locator/short", test_short);
    g_test_add_func("/vhdx/locator/type", test_type);
    g_test_add_func("/vhdx/locator/count", test_count);
    g_test_add_func("/vhdx/locator/count-limit", test_count_limit);
    g_test_add_func("/vhdx/locator/places", test_places);
    g_test_add_func("/vhdx/locator/text", test_text);
    g_test_add_func("/vhdx/locator/unicode", test_unicode);
    g_test_add_func("/vhdx/locator/long", test_long);
    g_test_add_func("/vhdx/locator/store-long", test_store_long);

    return g_test_run();
}
