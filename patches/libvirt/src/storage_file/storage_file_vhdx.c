/*
 * storage_file_vhdx.c: reader of VHDX images
 *
 * The size of the disk and the parent of a VHDX image are in its metadata
 * region, which may lie anywhere: a region table says where.  All is read
 * through a callback, in at most ten pieces of up to 64 KiB, and a locator of
 * up to 1 MiB.
 *
 * The log of the image is not replayed.  An image in use has one, and so has
 * one that was not closed; what is read here is in place even then, unless the
 * program was killed in the midst of a resize.
 *
 * This library is free software; you can redistribute it and/or
 * modify it under the terms of the GNU Lesser General Public
 * License as published by the Free Software Foundation; either
 * version 2.1 of the License, or (at your option) any later version.
 *
 * This library is distributed in the hope that it will be useful,
 * but WITHOUT ANY WARRANTY; without even the implied warranty of
 * MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE.  See the GNU
 * Lesser General Public License for more details.
 *
 * You should have received a copy of the GNU Lesser General Public
 * License along with this library.  If not, see
 * <http://www.gnu.org/licenses/>.
 */

#include <config.h>

#include "storage_file_vhdx.h"
#include "virendian.h"
#include "virerror.h"
#include "virstring.h"
#include "viruuid.h"

#define VIR_FROM_THIS VIR_FROM_STORAGE

#define VHDX_SIGNATURE "vhdxfile"
#define VHDX_SIGNATURE_LEN 8

#define VHDX_MIB (1024ULL * 1024)
#define VHDX_COPIES 2
#define VHDX_HEADER_OFFSET(i) ((i) ? 128 * 1024 : 64 * 1024)
#define VHDX_HEADER_LEN 4096
#define VHDX_REGION_TABLE_OFFSET(i) ((i) ? 256 * 1024 : 192 * 1024)
#define VHDX_TABLE_LEN (64 * 1024)
#define VHDX_TABLE_MAX_ENTRIES 2047
#define VHDX_REGION_TABLE_HEADER_LEN 16
#define VHDX_METADATA_TABLE_HEADER_LEN 32
#define VHDX_ENTRY_LEN 32
#define VHDX_GUID_LEN 16
#define VHDX_LOCATOR_HEADER_LEN 20
#define VHDX_LOCATOR_ENTRY_LEN 12

#define VHDX_MAX_DISK_SIZE (64ULL << 40)
#define VHDX_MIN_BLOCK_SIZE VHDX_MIB
#define VHDX_MAX_BLOCK_SIZE (256 * VHDX_MIB)

#define VHDX_REGION_REQUIRED 1
#define VHDX_ITEM_IS_USER 1
#define VHDX_ITEM_IS_REQUIRED 4
#define VHDX_FILE_IS_FIXED 1
#define VHDX_FILE_HAS_PARENT 2

/* GUIDs as they are stored: the first three fields have their low byte first */
static const unsigned char virVHDXRegionBAT[VHDX_GUID_LEN] = {
    0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42,
    0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08,
};

static const unsigned char virVHDXRegionMetadata[VHDX_GUID_LEN] = {
    0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b,
    0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e,
};

static const unsigned char virVHDXLocatorType[VHDX_GUID_LEN] = {
    0xb7, 0xef, 0x4a, 0xb0, 0x9e, 0xd1, 0x81, 0x4a,
    0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13,
};

typedef enum {
    VHDX_ITEM_FILE_PARAMETERS,
    VHDX_ITEM_DISK_SIZE,
    VHDX_ITEM_DISK_ID,
    VHDX_ITEM_LOGICAL_SECTOR,
    VHDX_ITEM_PHYSICAL_SECTOR,
    VHDX_ITEM_PARENT_LOCATOR,
    VHDX_ITEM_GEOMETRY,
    VHDX_ITEM_UNFINISHED,

    VHDX_ITEM_LAST
} virVHDXItemType;

typedef struct _virVHDXItemInfo virVHDXItemInfo;
struct _virVHDXItemInfo {
    unsigned char guid[VHDX_GUID_LEN];
    const char *name;
    unsigned int len;               /* bytes, 0 if any is right */
};

static const virVHDXItemInfo virVHDXItems[VHDX_ITEM_LAST] = {
    [VHDX_ITEM_FILE_PARAMETERS] = {
        { 0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d,
          0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b },
        "File Parameters", 8 },
    [VHDX_ITEM_DISK_SIZE] = {
        { 0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48,
          0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8 },
        "Virtual Disk Size", 8 },
    [VHDX_ITEM_DISK_ID] = {
        { 0xab, 0x12, 0xca, 0xbe, 0xe6, 0xb2, 0x23, 0x45,
          0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46 },
        "Virtual Disk ID", 0 },
    [VHDX_ITEM_LOGICAL_SECTOR] = {
        { 0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47,
          0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f },
        "Logical Sector Size", 4 },
    [VHDX_ITEM_PHYSICAL_SECTOR] = {
        { 0xc7, 0x48, 0xa3, 0xcd, 0x5d, 0x44, 0x71, 0x44,
          0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56 },
        "Physical Sector Size", 0 },
    [VHDX_ITEM_PARENT_LOCATOR] = {
        { 0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45,
          0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c },
        "Parent Locator", 0 },
    [VHDX_ITEM_GEOMETRY] = {
        { 0xbc, 0xd7, 0x02, 0xda, 0x3a, 0x3d, 0x2a, 0x42,
          0xac, 0x88, 0x2a, 0x36, 0xab, 0x21, 0x47, 0x9b },
        "disk geometry", 0 },
    [VHDX_ITEM_UNFINISHED] = {
        { 0xf0, 0x85, 0xcc, 0x71, 0x69, 0x1b, 0x28, 0x4e,
          0x95, 0x58, 0xc3, 0xbf, 0x83, 0xae, 0x75, 0xd3 },
        "unfinished image", 0 },
};

typedef struct _virVHDXItem virVHDXItem;
struct _virVHDXItem {
    unsigned long long offset;      /* in the file, bytes */
    unsigned int len;               /* bytes, 0 if there is none */
    bool found;
};

typedef enum {
    VHDX_PATH_RELATIVE,
    VHDX_PATH_VOLUME,
    VHDX_PATH_ABSOLUTE,

    VHDX_PATH_LAST
} virVHDXPathType;

static const char *const virVHDXPathKeys[VHDX_PATH_LAST] = {
    "relative_path", "volume_path", "absolute_win32_path",
};

typedef struct _virVHDXReader virVHDXReader;
struct _virVHDXReader {
    const char *path;
    virStorageFileVHDXRead readFunc;
    void *opaque;
    char *buf;                      /* VHDX_TABLE_LEN bytes */
    unsigned long long metadata;    /* offset of the region, bytes */
    unsigned int metadataLen;       /* bytes */
    virVHDXItem items[VHDX_ITEM_LAST];
    char *paths[VHDX_PATH_LAST];    /* of the Parent Locator */
};


static int G_GNUC_PRINTF(2, 3)
virVHDXDamaged(virVHDXReader *reader,
               const char *fmt,
               ...)
{
    g_autofree char *why = NULL;
    va_list args;

    va_start(args, fmt);
    why = g_strdup_vprintf(fmt, args);
    va_end(args);

    virReportError(VIR_ERR_OPERATION_FAILED,
                   _("damaged VHDX image '%1$s': %2$s"), reader->path, why);
    return -1;
}


static int
virVHDXRead(virVHDXReader *reader,
            unsigned long long offset,
            char *buf,
            size_t len)
{
    ssize_t got = reader->readFunc(offset, buf, len, reader->opaque);

    if (got < 0)
        return -1;

    if (got < len) {
        return virVHDXDamaged(reader,
                              _("the file has only %1$zd of %2$zu bytes at offset %3$llu"),
                              got, len, offset);
    }

    return 0;
}


/* Whether the CRC-32C at offset 4 of @buf is right; it counts as zeros itself.
 * Table n is for a byte with n bytes behind it: four are taken at a time. */
static bool
virVHDXChecksumMatches(const char *buf,
                       size_t len)
{
    g_autofree uint32_t *table = g_new0(uint32_t, 4 * 256);
    uint32_t crc = 0xffffffff;
    size_t i;
    size_t j;

    for (i = 0; i < 256; i++) {
        table[i] = i;
        for (j = 0; j < 8; j++)
            table[i] = (table[i] >> 1) ^ (table[i] & 1 ? 0x82f63b78 : 0);
    }

    for (i = 256; i < 4 * 256; i++)
        table[i] = (table[i - 256] >> 8) ^ table[table[i - 256] & 0xff];

    for (i = 0; i < len; i += 4) {
        crc ^= i == 4 ? 0 : virReadBufInt32LE(buf + i);
        crc = table[3 * 256 + (crc & 0xff)] ^ table[2 * 256 + ((crc >> 8) & 0xff)] ^
              table[256 + ((crc >> 16) & 0xff)] ^ table[crc >> 24];
    }

    return ~crc == virReadBufInt32LE(buf + 4);
}


static bool
virVHDXHeaderIsValid(const char *buf)
{
    return memcmp(buf, "head", 4) == 0 && virVHDXChecksumMatches(buf, VHDX_HEADER_LEN);
}


static bool
virVHDXGUIDEqual(const char *buf,
                 const unsigned char *guid)
{
    return memcmp(buf, guid, VHDX_GUID_LEN) == 0;
}


static char *
virVHDXGUIDFormat(const char *buf)
{
    unsigned char uuid[VIR_UUID_BUFLEN];
    char text[VIR_UUID_STRING_BUFLEN];
    static const unsigned char order[VIR_UUID_BUFLEN] = {
        3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15,
    };
    size_t i;

    for (i = 0; i < VIR_UUID_BUFLEN; i++)
        uuid[i] = buf[order[i]];

    virUUIDFormat(uuid, text);
    return g_strdup(text);
}


static int
virVHDXReadIdentifier(virVHDXReader *reader)
{
    if (virVHDXRead(reader, 0, reader->buf, VHDX_SIGNATURE_LEN) < 0)
        return -1;

    if (memcmp(reader->buf, VHDX_SIGNATURE, VHDX_SIGNATURE_LEN) != 0)
        return virVHDXDamaged(reader, _("the file identifier is gone"));

    return 0;
}


static int
virVHDXReadHeaders(virVHDXReader *reader)
{
    char *copies[VHDX_COPIES];
    char *current = NULL;
    unsigned long long sequence = 0;
    unsigned int version;
    size_t i;

    for (i = 0; i < VHDX_COPIES; i++) {
        unsigned long long number;

        copies[i] = reader->buf + i * VHDX_HEADER_LEN;
        if (virVHDXRead(reader, VHDX_HEADER_OFFSET(i), copies[i], VHDX_HEADER_LEN) < 0)
            return -1;

        if (!virVHDXHeaderIsValid(copies[i]))
            continue;

        number = virReadBufInt64LE(copies[i] + 8);
        if (current && number == sequence &&
            memcmp(copies[0], copies[1], VHDX_HEADER_LEN) != 0) {
            return virVHDXDamaged(reader,
                                  _("two different headers have SequenceNumber %1$llu"),
                                  number);
        }
        if (!current || number > sequence) {
            current = copies[i];
            sequence = number;
        }
    }

    if (!current)
        return virVHDXDamaged(reader, _("neither header has a valid signature and checksum"));

    version = virReadBufInt16LE(current + 66);
    if (version != 1)
        return virVHDXDamaged(reader, _("the header has Version %1$u"), version);

    return 0;
}


/* Read into the reader's buffer whichever copy of the region table is valid. */
static int
virVHDXReadRegionTable(virVHDXReader *reader)
{
    size_t i;

    for (i = 0; i < VHDX_COPIES; i++) {
        if (virVHDXRead(reader, VHDX_REGION_TABLE_OFFSET(i), reader->buf, VHDX_TABLE_LEN) < 0)
            return -1;

        if (memcmp(reader->buf, "regi", 4) == 0 &&
            virVHDXChecksumMatches(reader->buf, VHDX_TABLE_LEN))
            return 0;
    }

    return virVHDXDamaged(reader, _("neither region table has a valid signature and checksum"));
}


static int
virVHDXFindMetadata(virVHDXReader *reader)
{
    unsigned int count;
    bool found = false;
    size_t i;

    if (virVHDXReadRegionTable(reader) < 0)
        return -1;

    count = virReadBufInt32LE(reader->buf + 8);
    if (count > VHDX_TABLE_MAX_ENTRIES)
        return virVHDXDamaged(reader, _("the region table has EntryCount %1$u"), count);

    for (i = 0; i < count; i++) {
        const char *entry = reader->buf + VHDX_REGION_TABLE_HEADER_LEN + i * VHDX_ENTRY_LEN;
        unsigned long long offset = virReadBufInt64LE(entry + 16);
        unsigned int len = virReadBufInt32LE(entry + 24);

        if (!virVHDXGUIDEqual(entry, virVHDXRegionMetadata)) {
            if (!virVHDXGUIDEqual(entry, virVHDXRegionBAT) &&
                (virReadBufInt32LE(entry + 28) & VHDX_REGION_REQUIRED)) {
                g_autofree char *guid = virVHDXGUIDFormat(entry);

                return virVHDXDamaged(reader, _("unknown region %1$s is required"), guid);
            }
            continue;
        }

        if (found)
            return virVHDXDamaged(reader, _("the region table lists the metadata region twice"));

        if (offset < VHDX_MIB || offset % VHDX_MIB ||
            !len || len % VHDX_MIB || offset > LLONG_MAX - len) {
            return virVHDXDamaged(reader,
                                  _("the metadata region has FileOffset %1$llu and Length %2$u"),
                                  offset, len);
        }

        reader->metadata = offset;
        reader->metadataLen = len;
        found = true;
    }

    if (!found)
        return virVHDXDamaged(reader, _("the region table has no metadata region"));

    return 0;
}


static int
virVHDXAddItem(virVHDXReader *reader,
               const char *entry)
{
    unsigned int offset = virReadBufInt32LE(entry + 16);
    unsigned int len = virReadBufInt32LE(entry + 20);
    unsigned int flags = virReadBufInt32LE(entry + 24);
    virVHDXItem *item = NULL;
    size_t type;

    if (len > VHDX_MIB ||
        (len && (offset < VHDX_TABLE_LEN || offset > reader->metadataLen ||
                 len > reader->metadataLen - offset))) {
        g_autofree char *guid = virVHDXGUIDFormat(entry);

        return virVHDXDamaged(reader,
                              _("metadata item %1$s has Offset %2$u and Length %3$u"),
                              guid, offset, len);
    }

    for (type = 0; type < VHDX_ITEM_LAST; type++) {
        if (!(flags & VHDX_ITEM_IS_USER) &&
            virVHDXGUIDEqual(entry, virVHDXItems[type].guid))
            break;
    }

    if (type == VHDX_ITEM_LAST) {
        if (flags & VHDX_ITEM_IS_REQUIRED) {
            g_autofree char *guid = virVHDXGUIDFormat(entry);

            return virVHDXDamaged(reader, _("unknown metadata item %1$s is required"), guid);
        }
        return 0;
    }

    item = &reader->items[type];
    if (item->found) {
        return virVHDXDamaged(reader, _("there are two metadata items '%1$s'"),
                              virVHDXItems[type].name);
    }

    if (virVHDXItems[type].len && len != virVHDXItems[type].len) {
        return virVHDXDamaged(reader, _("the metadata item '%1$s' has Length %2$u"),
                              virVHDXItems[type].name, len);
    }

    *item = (virVHDXItem) {
        .offset = reader->metadata + offset,
        .len = len,
        .found = true,
    };
    return 0;
}


static int
virVHDXReadMetadataTable(virVHDXReader *reader)
{
    unsigned int count;
    size_t i;

    if (virVHDXRead(reader, reader->metadata, reader->buf, VHDX_TABLE_LEN) < 0)
        return -1;

    if (memcmp(reader->buf, "metadata", 8) != 0)
        return virVHDXDamaged(reader, _("the metadata table has no valid signature"));

    count = virReadBufInt16LE(reader->buf + 10);
    if (count > VHDX_TABLE_MAX_ENTRIES)
        return virVHDXDamaged(reader, _("the metadata table has EntryCount %1$u"), count);

    for (i = 0; i < count; i++) {
        if (virVHDXAddItem(reader, reader->buf + VHDX_METADATA_TABLE_HEADER_LEN +
                           i * VHDX_ENTRY_LEN) < 0)
            return -1;
    }

    if (reader->items[VHDX_ITEM_UNFINISHED].found)
        return virVHDXDamaged(reader, _("the image was not created completely"));

    return 0;
}


static int
virVHDXReadItem(virVHDXReader *reader,
                virVHDXItemType type,
                char *buf)
{
    virVHDXItem *item = &reader->items[type];

    if (!item->found) {
        return virVHDXDamaged(reader, _("there is no metadata item '%1$s'"),
                              virVHDXItems[type].name);
    }

    return virVHDXRead(reader, item->offset, buf, item->len);
}


static int
virVHDXReadDisk(virVHDXReader *reader,
                virStorageFileVHDX *image,
                bool *hasParent)
{
    char buf[8];
    unsigned int flags;

    if (virVHDXReadItem(reader, VHDX_ITEM_FILE_PARAMETERS, buf) < 0)
        return -1;

    image->blockSize = virReadBufInt32LE(buf);
    if (image->blockSize < VHDX_MIN_BLOCK_SIZE ||
        image->blockSize > VHDX_MAX_BLOCK_SIZE ||
        !VIR_IS_POW2(image->blockSize))
        return virVHDXDamaged(reader, _("BlockSize is %1$u"), image->blockSize);

    flags = virReadBufInt32LE(buf + 4);
    *hasParent = flags & VHDX_FILE_HAS_PARENT;
    image->fixed = !*hasParent && (flags & VHDX_FILE_IS_FIXED);

    if (virVHDXReadItem(reader, VHDX_ITEM_LOGICAL_SECTOR, buf) < 0)
        return -1;

    image->sectorSize = virReadBufInt32LE(buf);
    if (image->sectorSize != 512 && image->sectorSize != 4096)
        return virVHDXDamaged(reader, _("LogicalSectorSize is %1$u"), image->sectorSize);

    if (virVHDXReadItem(reader, VHDX_ITEM_DISK_SIZE, buf) < 0)
        return -1;

    image->capacity = virReadBufInt64LE(buf);
    if (image->capacity > VHDX_MAX_DISK_SIZE || image->capacity % image->sectorSize)
        return virVHDXDamaged(reader, _("VirtualDiskSize is %1$llu"), image->capacity);

    return 0;
}


/* -- The parent locator -- */

/* The text of @len bytes of UTF-16LE at @buf, or NULL if it is none. */
static char *
virVHDXTextDecode(const char *buf,
                  size_t len)
{
    g_autofree gunichar2 *text = g_new0(gunichar2, len / 2 + 1);
    glong used = 0;
    g_autofree char *ret = NULL;
    size_t i;

    for (i = 0; i < len / 2; i++)
        text[i] = virReadBufInt16LE(buf + i * 2);

    ret = g_utf16_to_utf8(text, len / 2, &used, NULL, NULL);
    if (!ret || used != len / 2)
        return NULL;

    for (i = 0; ret[i]; i++) {
        if (g_ascii_iscntrl(ret[i]))
            return NULL;
    }

    return g_steal_pointer(&ret);
}


static int
virVHDXLocatorPlace(virVHDXReader *reader,
                    const char *entry,
                    size_t what,
                    size_t locatorLen,
                    size_t *offset,
                    size_t *len)
{
    *offset = virReadBufInt32LE(entry + 4 * what);
    *len = virReadBufInt16LE(entry + 8 + 2 * what);

    if (!*offset || !*len || *len % 2 || *offset > locatorLen ||
        *len > locatorLen - *offset) {
        return virVHDXDamaged(reader,
                              what ? _("the Parent Locator has a value at offset %1$zu with length %2$zu") :
                                     _("the Parent Locator has a key at offset %1$zu with length %2$zu"),
                              *offset, *len);
    }

    return 0;
}


/* Keep the paths that the locator holds, with slashes. */
static int
virVHDXParseLocator(virVHDXReader *reader,
                    const char *buf,
                    size_t len)
{
    unsigned int count;
    size_t i;
    size_t j;

    if (len < VHDX_LOCATOR_HEADER_LEN)
        return virVHDXDamaged(reader, _("the Parent Locator has Length %1$zu"), len);

    if (!virVHDXGUIDEqual(buf, virVHDXLocatorType)) {
        g_autofree char *guid = virVHDXGUIDFormat(buf);

        return virVHDXDamaged(reader, _("the Parent Locator has LocatorType %1$s"), guid);
    }

    count = virReadBufInt16LE(buf + 18);
    if (count > (len - VHDX_LOCATOR_HEADER_LEN) / VHDX_LOCATOR_ENTRY_LEN) {
        return virVHDXDamaged(reader, _("the Parent Locator has KeyValueCount %1$u"),
                              count);
    }

    for (i = 0; i < count; i++) {
        const char *entry = buf + VHDX_LOCATOR_HEADER_LEN + i * VHDX_LOCATOR_ENTRY_LEN;
        g_autofree char *key = NULL;
        size_t keyAt, keyLen, valueAt, valueLen;

        if (virVHDXLocatorPlace(reader, entry, 0, len, &keyAt, &keyLen) < 0 ||
            virVHDXLocatorPlace(reader, entry, 1, len, &valueAt, &valueLen) < 0)
            return -1;

        key = virVHDXTextDecode(buf + keyAt, keyLen);
        for (j = 0; j < VHDX_PATH_LAST; j++) {
            if (STRNEQ_NULLABLE(key, virVHDXPathKeys[j]))
                continue;

            if (reader->paths[j])
                return virVHDXDamaged(reader, _("the Parent Locator has two keys '%1$s'"), key);

            if (!(reader->paths[j] = virVHDXTextDecode(buf + valueAt, valueLen)))
                return virVHDXDamaged(reader, _("the Parent Locator's '%1$s' is not valid UTF-16 text"), key);

            g_strdelimit(reader->paths[j], "\\", '/');
        }
    }

    return 0;
}


/* Add @path to the places where the parent may be, unless it is one already. */
static void
virVHDXAddParent(virStorageFileVHDX *image,
                 const char *path)
{
    g_autofree char *squeezed = g_new0(char, strlen(path) + 1);
    g_autofree char *text = NULL;
    const char *colon;
    const char *slash;
    char *to = squeezed;

    for (; *path; path++) {
        if (*path != '/' || path[1] != '/')
            *to++ = *path;
    }

    path = squeezed;
    while (STRPREFIX(path, "./"))
        path += 2;

    if (!*path || STREQ(path, ".") || STREQ(path, "..") || g_str_has_suffix(path, "/"))
        return;

    /* A name with a colon must not look like a protocol. */
    colon = strchr(path, ':');
    slash = strchr(path, '/');
    text = g_strconcat(colon && (!slash || colon < slash) ? "./" : "", path, NULL);

    if (!g_strv_contains((const char *const *) image->parents, text))
        image->parents[g_strv_length(image->parents)] = g_steal_pointer(&text);
}


static bool
virVHDXIsDriveLetter(const char *path)
{
    return g_ascii_isalpha(path[0]) && path[1] == ':';
}


/* What is no file of a disk; a locator comes with the image, from anywhere. */
static bool
virVHDXIsSystem(const char *path)
{
    g_autofree char *canonical = g_canonicalize_filename(path, "/");

    return STRPREFIX(canonical, "/dev/") || STRPREFIX(canonical, "/proc/") ||
           STRPREFIX(canonical, "/sys/");
}


static void
virVHDXAddName(virStorageFileVHDX *image,
               const char *path)
{
    const char *slash = strrchr(path, '/');

    virVHDXAddParent(image, slash ? slash + 1 : path);
}


/*
 * In the order of the format: the relative path, then the volume's, then the
 * absolute one.  Volumes and drive letters mean nothing here, so that of them
 * only the file's name is left, for chains that lie in one folder.
 */
static int
virVHDXReadParent(virVHDXReader *reader,
                  virStorageFileVHDX *image)
{
    unsigned int len = reader->items[VHDX_ITEM_PARENT_LOCATOR].len;
    g_autofree char *buf = g_new0(char, len + 1);
    const char *relative;
    const char *absolute;
    size_t i;

    if (virVHDXReadItem(reader, VHDX_ITEM_PARENT_LOCATOR, buf) < 0 ||
        virVHDXParseLocator(reader, buf, len) < 0)
        return -1;

    /* Two paths and three names at most */
    image->parents = g_new0(char *, 2 + VHDX_PATH_LAST + 1);

    relative = reader->paths[VHDX_PATH_RELATIVE];
    if (relative && *relative != '/' && !virVHDXIsDriveLetter(relative))
        virVHDXAddParent(image, relative);

    absolute = reader->paths[VHDX_PATH_ABSOLUTE];
    if (absolute && STRPREFIX(absolute, "/") && !STRPREFIX(absolute, "//") &&
        !virVHDXIsSystem(absolute))
        virVHDXAddParent(image, absolute);

    for (i = 0; i < VHDX_PATH_LAST; i++) {
        if (reader->paths[i])
            virVHDXAddName(image, reader->paths[i]);
    }

    if (!*image->parents)
        return virVHDXDamaged(reader, _("the Parent Locator has no path"));

    return 0;
}


/**
 * virStorageFileVHDXOpen:
 * @path: name of the image, for messages
 * @readFunc: reads from the image
 * @opaque: passed to @readFunc
 * @image: filled with what the image says of itself
 *
 * Reads the metadata of a VHDX image; nothing in the file is trusted.  The
 * caller frees @image with virStorageFileVHDXFree.
 *
 * Returns 0 on success, -1 with an error reported that names the image and what
 * is wrong.
 */
int
virStorageFileVHDXOpen(const char *path,
                       virStorageFileVHDXRead readFunc,
                       void *opaque,
                       virStorageFileVHDX **image)
{
    g_autofree char *buf = g_new0(char, VHDX_TABLE_LEN);
    g_autoptr(virStorageFileVHDX) ret = g_new0(virStorageFileVHDX, 1);
    virVHDXReader reader = {
        .path = path,
        .readFunc = readFunc,
        .opaque = opaque,
        .buf = buf,
    };
    bool hasParent = false;
    int rc = -1;
    size_t i;

    if (virVHDXReadIdentifier(&reader) == 0 &&
        virVHDXReadHeaders(&reader) == 0 &&
        virVHDXFindMetadata(&reader) == 0 &&
        virVHDXReadMetadataTable(&reader) == 0 &&
        virVHDXReadDisk(&reader, ret, &hasParent) == 0)
        rc = hasParent ? virVHDXReadParent(&reader, ret) : 0;

    for (i = 0; i < VHDX_PATH_LAST; i++)
        g_free(reader.paths[i]);

    if (rc == 0)
        *image = g_steal_pointer(&ret);

    return rc;
}


/**
 * virStorageFileVHDXHasHeader:
 * @readFunc: reads from the file
 * @opaque: passed to @readFunc
 *
 * Returns whether a valid header of a VHDX image is where one of the two lies,
 * for files without the identifier.  Nothing is reported but what @readFunc does.
 */
bool
virStorageFileVHDXHasHeader(virStorageFileVHDXRead readFunc,
                            void *opaque)
{
    g_autofree char *buf = g_new0(char, VHDX_HEADER_LEN);
    size_t i;

    for (i = 0; i < VHDX_COPIES; i++) {
        if (readFunc(VHDX_HEADER_OFFSET(i), buf, VHDX_HEADER_LEN, opaque) != VHDX_HEADER_LEN)
            return false;

        if (virVHDXHeaderIsValid(buf))
            return true;
    }

    return false;
}


void
virStorageFileVHDXFree(virStorageFileVHDX *image)
{
    if (!image)
        return;

    g_strfreev(image->parents);
    g_free(image);
}
