/*
 * VHDX: the parent locator
 *
 * A differencing image says where its parent is in a metadata item of keys and
 * values, each with its place and length in the item (section 2.6.2.6).  There
 * may be several paths, for parents that have moved, and are tried in an order.
 *
 * Pure: bytes in, text out.  Nothing in the item is believed before it has been
 * seen to lie inside.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "block/vhdx/format.h"
#include "block/vhdx/locator.h"

#define LOCATOR_HEADER_SIZE     20
#define LOCATOR_ENTRY_SIZE      12

static const VHDXGuid locator_type = {
    { 0xb0, 0x4a, 0xef, 0xb7, 0xd1, 0x9e, 0x4a, 0x81,
      0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13 }
};

/* Keys whose values are paths; one that people can read comes before GUIDs. */
static const char *const path_keys[] = {
    "relative_path", "absolute_win32_path", "volume_path"
};

/* Whether the @bytes bytes of UTF-16 at @buf are the text @key. */
static bool key_equal(const uint8_t *buf, uint16_t bytes, const char *key)
{
    if (bytes != strlen(key) * 2) {
        return false;
    }
    for (size_t i = 0; key[i]; i++) {
        if (lduw_le_p(buf + i * 2) != key[i]) {
            return false;
        }
    }
    return true;
}

/* Judge a place in the locator that entry @i names as its @what. */
static int place_check(uint32_t offset, uint16_t length, uint32_t bytes,
                       uint32_t i, const char *what, Error **errp)
{
    if (!offset || offset > bytes || !length || length % 2 ||
        length > bytes - offset) {
        error_setg(errp, "entry %" PRIu32 " has a %s at offset %" PRIu32
                   " with length %u", i, what, offset, length);
        return -EINVAL;
    }
    return 0;
}

char *vhdx_locator_parent(const uint8_t *buf, uint32_t bytes, Error **errp)
{
    const uint8_t *value = NULL;
    uint16_t length = 0;
    size_t best = ARRAY_SIZE(path_keys);
    uint32_t count;
    VHDXGuid type;
    char *path;

    if (bytes < LOCATOR_HEADER_SIZE) {
        error_setg(errp, "it has only %" PRIu32 " bytes", bytes);
        return NULL;
    }
    type = vhdx_guid_decode(buf);
    if (!vhdx_guid_equal(&type, &locator_type)) {
        char guid[UUID_STR_LEN];

        uuid_unparse_lower(type.id, guid);
        error_setg(errp, "it has the unknown LocatorType %s", guid);
        return NULL;
    }
    count = lduw_le_p(buf + 18);
    if (count > (bytes - LOCATOR_HEADER_SIZE) / LOCATOR_ENTRY_SIZE) {
        error_setg(errp, "KeyValueCount is %" PRIu32 " in %" PRIu32 " bytes",
                   count, bytes);
        return NULL;
    }
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *e = buf + LOCATOR_HEADER_SIZE + i * LOCATOR_ENTRY_SIZE;
        uint32_t key_at = ldl_le_p(e), value_at = ldl_le_p(e + 4);
        uint16_t key_bytes = lduw_le_p(e + 8), value_bytes = lduw_le_p(e + 10);

        if (place_check(key_at, key_bytes, bytes, i, "key", errp) < 0 ||
            place_check(value_at, value_bytes, bytes, i, "value", errp) < 0) {
            return NULL;
        }
        for (size_t k = 0; k < best; k++) {
            if (key_equal(buf + key_at, key_bytes, path_keys[k])) {
                best = k;
                value = buf + value_at;
                length = value_bytes;
            }
        }
    }
    if (!value) {
        error_setg(errp, "it has no path");
        return NULL;
    }
    path = vhdx_text_decode(value, length / 2);
    if (!path) {
        error_setg(errp, "its %s is not UTF-16", path_keys[best]);
    }
    return path;
}
