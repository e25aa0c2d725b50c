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

/* A locator of @pairs leads to @path. */
static void leads_to(const Pair *pairs, int count, const char *path)
{
    g_autoptr(GByteArray) loc = locator_new(pairs, count);
    g_autofree char *got = vhdx_locator_parent(loc->data, loc->len,
                                               &error_abort);

    g_assert_cmpstr(got, ==, path);
}

static void refuse(const GByteArray *loc, const char *name, const char *value)
{
    Error *err = NULL;

    g_assert_null(vhdx_locator_parent(loc->data, loc->len, &err));
    expect_error(err, name, value);
}

/* The same with @bytes bytes of @value at @at of a good one. */
static void refuse_change(uint32_t at, uint64_t value, int bytes,
                          const char *name, const char *text)
{
    static const Pair pairs[] = {
        { "parent_linkage", "{01020304-0506-0708-090A-0B0C0D0E0F10}" },
        { "relative_path", ".\\a.vhdx" },
    };
    g_autoptr(GByteArray) loc = locator_new(pairs, 2);

    put_le(loc->data + at, value, bytes);
    refuse(loc, name, text);
}

static void test_one(void)
{
    static const char *const keys[] = {
        "relative_path", "absolute_win32_path", "volume_path"
    };

    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        const Pair pair = { keys[i], "C:\\a b.vhdx" };

        leads_to(&pair, 1, "C:\\a b.vhdx");
    }
}

/* Which path is taken does not hang on their order in the locator. */
static void test_preference(void)
{
    static const Pair all[] = {
        { "relative_path", "r" }, { "absolute_win32_path", "a" },
        { "volume_path", "v" }, { "parent_linkage", "l" },
    };
    static const int orders[][4] = {
        { 0, 1, 2, 3 }, { 3, 2, 1, 0 }, { 2, 0, 3, 1 }, { 1, 3, 0, 2 }
    };

    for (size_t i = 0; i < G_N_ELEMENTS(orders); i++) {
        Pair pairs[4], without[3];
        int n = 0;

        for (int j = 0; j < 4; j++) {
            pairs[j] = all[orders[i][j]];
            if (orders[i][j] != 0) {
                without[n++] = pairs[j];
            }
        }
        leads_to(pairs, 4, "r");
        leads_to(without, 3, "a");
    }
}

/* Keys that are like a path's are none. */
static void test_no_path(void)
{
    static const Pair pairs[] = {
        { "parent_linkage", "l" }, { "relative_pat", "x" },
        { "relative_path2", "x" }, { "Relative_path", "x" },
    };

    for (int count = 0; count <= G_N_ELEMENTS(pairs); count++) {
        g_autoptr(GByteArray) loc = locator_new(pairs, count);

        refuse(loc, "no path", "");
    }
}

static void test_short(void)
{
    static const Pair pair = { "relative_path", "r" };

    for (int bytes = 0; bytes < 20; bytes++) {
        g_autoptr(GByteArray) loc = locator_new(&pair, 1);
        g_autofree char *text = g_strdup_printf(" %d bytes", bytes);

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

/* A path that is no text, and one that a terminal must not get as it is */
static void test_text(void)
{
    static const Pair pair = { "volume_path", "ab" };
    g_autoptr(GByteArray) loc = locator_new(&pair, 1);
    g_autofree char *path = NULL;

    put_le(loc->data + loc->len - 2, 0xd800, 2);
    refuse(loc, "volume_path", "UTF-16");
    put_le(loc->data + loc->len - 2, 0x1b, 2);
    path = vhdx_locator_parent(loc->data, loc->len, &error_abort);
    g_assert_cmpstr(path, ==, "a\xef\xbf\xbd");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    g_test_add_func("/vhdx/locator/one", test_one);
    g_test_add_func("/vhdx/locator/preference", test_preference);
    g_test_add_func("/vhdx/locator/no-path", test_no_path);
    g_test_add_func("/vhdx/locator/short", test_short);
    g_test_add_func("/vhdx/locator/type", test_type);
    g_test_add_func("/vhdx/locator/count", test_count);
    g_test_add_func("/vhdx/locator/places", test_places);
    g_test_add_func("/vhdx/locator/text", test_text);

    return g_test_run();
}
