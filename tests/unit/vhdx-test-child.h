/*
 * VHDX unit tests: making a child of a new image, without the driver
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef TESTS_UNIT_VHDX_TEST_CHILD_H
#define TESTS_UNIT_VHDX_TEST_CHILD_H

#include "vhdx-test-util.h"

#define GUID_LOCATOR_TYPE   "B04AEFB7-D19E-4A81-B789-25B8E9445913"

/* So much of the metadata region is changed: the table, and items. */
#define CHILD_METADATA      (128 * KiB)

/* Put @text at @item + @at as UTF-16, and where that is.  Returns its end. */
static inline unsigned child_text(uint8_t *item, unsigned at,
                                  unsigned put_offset, unsigned put_length,
                                  const char *text)
{
    unsigned bytes = strlen(text) * 2;

    for (unsigned i = 0; text[i]; i++) {
        put_le(item + at + i * 2, text[i], 2);
    }
    put_le(item + put_offset, at, 4);
    put_le(item + put_length, bytes, 2);
    return at + bytes;
}

/* Make a Parent Locator.  Returns its length. */
static inline unsigned child_locator(uint8_t *item, const char *linkage,
                                     const char *path)
{
    const char *const pairs[][2] = {
        { "parent_linkage", linkage },
        { "relative_path", path },
    };
    unsigned at = 20 + 12 * ARRAY_SIZE(pairs);

    put_guid(item, GUID_LOCATOR_TYPE);
    put_le(item + 16, 0, 2);
    put_le(item + 18, ARRAY_SIZE(pairs), 2);
    for (int i = 0; i < ARRAY_SIZE(pairs); i++) {
        unsigned entry = 20 + 12 * i;

        at = child_text(item, at, entry, entry + 8, pairs[i][0]);
        at = child_text(item, at, entry + 4, entry + 10, pairs[i][1]);
    }
    return at;
}

/*
 * Let the metadata region that begins with the CHILD_METADATA bytes at @meta
 * say that there is a parent, which has the DataWriteGuid @linkage.
 */
static inline void child_metadata_of(uint8_t *meta, const char *linkage,
                                     const char *path)
{
    unsigned count = get_le(meta + 10, 2), end = 64 * KiB, bytes;
    uint8_t *entry;

    for (unsigned i = 0; i < count; i++) {
        unsigned at;

        entry = meta + 32 + 32 * i;
        at = get_le(entry + 16, 4);
        end = MAX(end, at + get_le(entry + 20, 4));
        if (guid_is(entry, GUID_FILE_PARAMETERS)) {
            put_le(meta + at + 4, 2, 4);
        }
    }
    bytes = child_locator(meta + end, linkage, path);
    entry = meta + 32 + 32 * count;
    put_guid(entry, GUID_PARENT_LOCATOR);
    put_le(entry + 16, end, 4);
    put_le(entry + 20, bytes, 4);
    put_le(entry + 24, 4, 4);
    put_le(meta + 10, count + 1, 2);
}

/* The same with any parent */
static inline void child_metadata(uint8_t *meta)
{
    child_metadata_of(meta, "{f88d4d92-6fcc-408d-9bef-9b7c89f15c89}",
                      ".\\parent.vhdx");
}

/* Let the new image at @path, an empty one, have a parent. */
static inline void child_of_file(const char *path)
{
    g_autofree uint8_t *file = NULL;
    gsize bytes;

    g_assert_true(g_file_get_contents(path, (char **)&file, &bytes, NULL));
    for (int i = 0; i < 2; i++) {
        const uint8_t *entry = file + 3 * 64 * KiB + 16 + 32 * i;

        if (guid_is(entry, GUID_REGION_METADATA)) {
            child_metadata(file + get_le(entry + 16, 8));
        }
    }
    g_assert_true(g_file_set_contents(path, (char *)file, bytes, NULL));
}

#endif
