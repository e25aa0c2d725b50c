/*
 * VHDX: the parent locator
 *
 * A differencing image says in a metadata item of keys and values, each with
 * its place and length in the item, which parent it was made for, by the
 * DataWriteGuid that the parent had then, and where the parent is (section
 * 2.6.2.6).  There may be several paths, for parents that have moved.
 *
 * Pure: bytes in, a struct out.  Nothing in the item is believed before it has
 * been seen to lie inside, and no text goes on that a terminal or the file
 * system would take for something else.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "block/vhdx/locator.h"

#define LOCATOR_HEADER_SIZE     20
#define LOCATOR_ENTRY_SIZE      12
#define LOCATOR_MAX_ENTRIES     256

/* A GUID with braces */
#define LINKAGE_CHARS           (UUID_STR_LEN - 1 + 2)

static const VHDXGuid locator_type = {
    { 0xb0, 0x4a, 0xef, 0xb7, 0xd1, 0x9e, 0x4a, 0x81,
      0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13 }
};

typedef enum LocatorKey {
    KEY_LINKAGE,
    KEY_LINKAGE2,
    KEY_RELATIVE,
    KEY_VOLUME,
    KEY_ABSOLUTE,
    KEY__MAX,
} LocatorKey;

static const char *const key_names[KEY__MAX] = {
    [KEY_LINKAGE] = "parent_linkage",
    [KEY_LINKAGE2] = "parent_linkage2",
    [KEY_RELATIVE] = "relative_path",
    [KEY_VOLUME] = "volume_path",
    [KEY_ABSOLUTE] = "absolute_win32_path",
};

/* UTF-16 text in the item; buf is NULL where there is none */
typedef struct LocatorText {
    const uint8_t *buf;
    uint16_t bytes;
} LocatorText;

/* Whether @text is the key @name. */
static bool key_equal(LocatorText text, const char *name)
{
    if (text.bytes != strlen(name) * 2) {
        return false;
    }
    for (size_t i = 0; name[i]; i++) {
        if (lduw_le_p(text.buf + i * 2) != name[i]) {
            return false;
        }
    }
    return true;
}

/* Judge header and size of the locator, and tell how many entries it has. */
static int header_decode(const uint8_t *buf, uint32_t bytes, uint32_t *count,
                         Error **errp)
{
    VHDXGuid type;

    if (bytes < LOCATOR_HEADER_SIZE) {
        error_setg(errp, "it has only %" PRIu32 " byte%s", bytes,
                   vhdx_plural(bytes));
        return -EINVAL;
    }
    type = vhdx_guid_decode(buf);
    if (!vhdx_guid_equal(&type, &locator_type)) {
        char guid[UUID_STR_LEN];

        uuid_unparse_lower(type.id, guid);
        error_setg(errp, "it has the unknown LocatorType %s", guid);
        return -EINVAL;
    }
    *count = lduw_le_p(buf + 18);
    if (*count > (bytes - LOCATOR_HEADER_SIZE) / LOCATOR_ENTRY_SIZE) {
        error_setg(errp, "KeyValueCount is %" PRIu32 " in %" PRIu32 " bytes",
                   *count, bytes);
        return -EINVAL;
    }
    if (*count > LOCATOR_MAX_ENTRIES) {
        error_setg(errp, "KeyValueCount is %" PRIu32 ", more than %d", *count,
                   LOCATOR_MAX_ENTRIES);
        return -EINVAL;
    }
    return 0;
}

/* The place in the locator that entry @i names as its @what */
static int text_decode(const uint8_t *buf, uint32_t bytes, uint32_t offset,
                       uint16_t length, uint32_t i, const char *what,
                       LocatorText *text, Error **errp)
{
    if (!offset || offset > bytes || !length || length % 2 ||
        length > bytes - offset) {
        error_setg(errp, "entry %" PRIu32 " has a %s at offset %" PRIu32
                   " with length %u", i, what, offset, length);
        return -EINVAL;
    }
    *text = (LocatorText) { .buf = buf + offset, .bytes = length };
    return 0;
}

/* Find the values of known keys among @count entries. */
static int entries_decode(const uint8_t *buf, uint32_t bytes, uint32_t count,
                          LocatorText values[KEY__MAX], Error **errp)
{
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *e = buf + LOCATOR_HEADER_SIZE + i * LOCATOR_ENTRY_SIZE;
        LocatorText key, value;

        if (text_decode(buf, bytes, ldl_le_p(e), lduw_le_p(e + 8), i, "key",
                        &key, errp) < 0 ||
            text_decode(buf, bytes, ldl_le_p(e + 4), lduw_le_p(e + 10), i,
                        "value", &value, errp) < 0) {
            return -EINVAL;
        }
        for (LocatorKey k = 0; k < KEY__MAX; k++) {
            if (!key_equal(key, key_names[k])) {
                continue;
            }
            if (values[k].buf) {
                error_setg(errp, "it has the key %s twice", key_names[k]);
                return -EINVAL;
            }
            values[k] = value;
        }
    }
    return 0;
}

/* The GUID that a linkage is; the nil one where there is no linkage */
static int linkage_decode(LocatorText value, const char *key, VHDXGuid *guid,
                          Error **errp)
{
    g_autofree char *text = NULL;
    g_autofree char *inside = NULL;

    *guid = vhdx_guid_nil;
    if (!value.buf) {
        return 0;
    }
    text = vhdx_text_decode(value.buf, value.bytes / 2);
    if (!text) {
        error_setg(errp, "its %s is not UTF-16", key);
        return -EINVAL;
    }
    if (value.bytes == LINKAGE_CHARS * 2 && strlen(text) == LINKAGE_CHARS &&
        text[0] == '{' && text[LINKAGE_CHARS - 1] == '}') {
        inside = g_strndup(text + 1, LINKAGE_CHARS - 2);
    }
    if (!inside || uuid_parse(inside, guid->id) < 0) {
        error_setg(errp, "its %s of %u bytes, '%s', is not a GUID in braces",
                   key, value.bytes, text);
        return -EINVAL;
    }
    return 0;
}

/* The text that a path is; NULL, without an error, where there is no path */
static int path_decode(LocatorText value, const char *key, char **path,
                       Error **errp)
{
    g_autofree char *text = NULL;

    if (!value.buf) {
        return 0;
    }
    text = vhdx_text_decode(value.buf, value.bytes / 2);
    if (!text) {
        error_setg(errp, "its %s is not UTF-16", key);
        return -EINVAL;
    }
    for (int i = 0; i < value.bytes; i += 2) {
        uint16_t unit = lduw_le_p(value.buf + i);

        if (!unit) {
            error_setg(errp, "its %s has a NUL behind '%s'", key, text);
            return -EINVAL;
        }
        /* No unit of a surrogate pair is one. */
        if (g_unichar_iscntrl(unit)) {
            error_setg(errp, "its %s has control characters: '%s'", key, text);
            return -EINVAL;
        }
    }
    *path = g_steal_pointer(&text);
    return 0;
}

/* Tell of a locator that is damaged by @err, with what else can be read. */
static void damage_tell(const LocatorText values[KEY__MAX], Error *err,
                        Error **errp)
{
    g_autoptr(GString) text = g_string_new(error_get_pretty(err));

    for (LocatorKey k = 0; k < KEY__MAX; k++) {
        g_autofree char *value = NULL;

        if (values[k].buf) {
            value = vhdx_text_decode(values[k].buf, values[k].bytes / 2);
        }
        /* Where this one is what is wrong it has been told. */
        if (value && !strstr(text->str, key_names[k])) {
            g_string_append_printf(text, "; %s is '%s'", key_names[k], value);
        }
    }
    error_setg(errp, "%s", text->str);
    error_free(err);
}

static VHDXLocator *values_decode(const LocatorText values[KEY__MAX],
                                  Error **errp)
{
    g_autoptr(VHDXLocator) loc = g_new0(VHDXLocator, 1);

    if (!values[KEY_LINKAGE].buf) {
        error_setg(errp, "it has no parent_linkage");
        return NULL;
    }
    if (!values[KEY_RELATIVE].buf && !values[KEY_VOLUME].buf &&
        !values[KEY_ABSOLUTE].buf) {
        error_setg(errp, "it has no path");
        return NULL;
    }
    if (linkage_decode(values[KEY_LINKAGE], key_names[KEY_LINKAGE],
                       &loc->linkage, errp) < 0 ||
        linkage_decode(values[KEY_LINKAGE2], key_names[KEY_LINKAGE2],
                       &loc->linkage2, errp) < 0 ||
        path_decode(values[KEY_RELATIVE], key_names[KEY_RELATIVE],
                    &loc->relative_path, errp) < 0 ||
        path_decode(values[KEY_VOLUME], key_names[KEY_VOLUME],
                    &loc->volume_path, errp) < 0 ||
        path_decode(values[KEY_ABSOLUTE], key_names[KEY_ABSOLUTE],
                    &loc->absolute_win32_path, errp) < 0) {
        return NULL;
    }
    return g_steal_pointer(&loc);
}

VHDXLocator *vhdx_locator_decode(const uint8_t *buf, uint32_t bytes,
                                 Error **errp)
{
    LocatorText values[KEY__MAX] = { 0 };
    VHDXLocator *loc = NULL;
    Error *err = NULL;
    uint32_t count;

    if (header_decode(buf, bytes, &count, &err) == 0 &&
        entries_decode(buf, bytes, count, values, &err) == 0) {
        loc = values_decode(values, &err);
    }
    if (!loc) {
        damage_tell(values, err, errp);
    }
    return loc;
}

int vhdx_locator_check_linkage(const VHDXLocator *loc, const char *name,
                               Error **errp)
{
    if (vhdx_guid_is_nil(&loc->linkage)) {
        error_setg(errp, "The parent '%s' has no DataWriteGuid, by which its "
                   "child would know it; write to it once", name);
        return -EINVAL;
    }
    return 0;
}

VHDXLocator *vhdx_locator_relink(const VHDXLocator *loc,
                                 const VHDXGuid *linkage,
                                 const VHDXGuid *linkage2)
{
    VHDXLocator *copy = g_new(VHDXLocator, 1);

    *copy = (VHDXLocator) {
        .linkage = *linkage,
        .linkage2 = *linkage2,
        .relative_path = g_strdup(loc->relative_path),
        .volume_path = g_strdup(loc->volume_path),
        .absolute_win32_path = g_strdup(loc->absolute_win32_path),
    };
    return copy;
}

void vhdx_locator_free(VHDXLocator *loc)
{
    if (loc) {
        g_free(loc->relative_path);
        g_free(loc->volume_path);
        g_free(loc->absolute_win32_path);
        g_free(loc);
    }
}

/* -- Encoding -- */

/* Append @text as UTF-16; its place goes to @at, its bytes to @length. */
static int text_append(GByteArray *item, const char *text, size_t at,
                       size_t length, Error **errp)
{
    g_autofree gunichar2 *utf16 = NULL;
    glong units;

    utf16 = g_utf8_to_utf16(text, -1, NULL, &units, NULL);
    if (!utf16) {
        error_setg(errp, "The path of the parent is not UTF-8");
        return -EINVAL;
    }
    if (units > UINT16_MAX / 2) {
        error_setg(errp, "The path of the parent is too long: it takes %ld "
                   "UTF-16 units, and a locator has room for %d", units,
                   UINT16_MAX / 2);
        return -EINVAL;
    }
    stl_le_p(item->data + at, item->len);
    stw_le_p(item->data + length, units * 2);
    for (glong i = 0; i < units; i++) {
        const uint8_t unit[2] = { utf16[i] & 0xff, utf16[i] >> 8 };

        g_byte_array_append(item, unit, sizeof(unit));
    }
    return 0;
}

/* The form that linkages have */
static char *linkage_text(const VHDXGuid *guid)
{
    char text[UUID_STR_LEN];

    uuid_unparse_lower(guid->id, text);
    return g_strdup_printf("{%s}", text);
}

uint8_t *vhdx_locator_encode(const VHDXLocator *loc, uint32_t *bytes,
                             Error **errp)
{
    g_autofree char *linkage = linkage_text(&loc->linkage);
    g_autofree char *linkage2 = vhdx_guid_is_nil(&loc->linkage2) ? NULL :
                                linkage_text(&loc->linkage2);
    const char *const pairs[][2] = {
        { key_names[KEY_LINKAGE], linkage },
        { key_names[KEY_ABSOLUTE], loc->absolute_win32_path },
        { key_names[KEY_RELATIVE], loc->relative_path },
        { key_names[KEY_VOLUME], loc->volume_path },
        { key_names[KEY_LINKAGE2], linkage2 },
    };
    g_autoptr(GByteArray) item = g_byte_array_new();
    size_t count = 0, at = LOCATOR_HEADER_SIZE;

    for (int i = 0; i < ARRAY_SIZE(pairs); i++) {
        count += pairs[i][1] != NULL;
    }
    g_byte_array_set_size(item, at + count * LOCATOR_ENTRY_SIZE);
    memset(item->data, 0, item->len);
    vhdx_guid_encode(&locator_type, item->data);
    stw_le_p(item->data + 18, count);
    for (int i = 0; i < ARRAY_SIZE(pairs); i++) {
        if (!pairs[i][1]) {
            continue;
        }
        if (text_append(item, pairs[i][0], at, at + 8, errp) < 0 ||
            text_append(item, pairs[i][1], at + 4, at + 10, errp) < 0) {
            return NULL;
        }
        at += LOCATOR_ENTRY_SIZE;
    }
    *bytes = item->len;
    return g_byte_array_free(g_steal_pointer(&item), false);
}
