/*
 * VHDX: the on-disk format as data
 *
 * Everything here is pure: bytes in, structs out, or the reverse.  No function
 * does I/O, takes a lock or knows a BlockDriverState, so all of it can be
 * tested on its own and used alike by open, create, the log and check.
 *
 * Structs hold values in host byte order and GUIDs in the order in which they
 * are printed; the encoders and decoders convert.  Section numbers refer to
 * MS-VHDX, revision 8.0.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_FORMAT_H
#define BLOCK_VHDX_FORMAT_H

#include "qemu/units.h"

#ifdef CONFIG_LIBUUID
#include <uuid/uuid.h>
#else
/* What the driver uses of libuuid, by QEMU's own functions */
#include "qemu/cutils.h"
#include "qemu/uuid.h"

typedef unsigned char uuid_t[sizeof(QemuUUID)];

#ifndef UUID_STR_LEN
#define UUID_STR_LEN sizeof(UUID_NONE)
#endif

#define uuid_compare(a, b)          memcmp(a, b, sizeof(uuid_t))
#define uuid_is_null(uuid)          buffer_is_zero(uuid, sizeof(uuid_t))

static inline void uuid_generate_random(uuid_t out)
{
    QemuUUID uuid;

    qemu_uuid_generate(&uuid);
    memcpy(out, uuid.data, sizeof(uuid_t));
}

static inline int uuid_parse(const char *in, uuid_t out)
{
    QemuUUID uuid;
    int ret = qemu_uuid_parse(in, &uuid);

    if (ret == 0) {
        memcpy(out, uuid.data, sizeof(uuid_t));
    }
    return ret;
}

static inline void uuid_unparse_lower(const uuid_t in, char *out)
{
    QemuUUID uuid;

    memcpy(uuid.data, in, sizeof(uuid_t));
    qemu_uuid_unparse(&uuid, out);
}
#endif

/* 2.2: the header section, and what every other object is aligned to */
#define VHDX_MIB                    ((uint64_t)MiB)
#define VHDX_FILE_ID_SIZE           (64 * KiB)
#define VHDX_CREATOR_CHARS          256
#define VHDX_HEADER_OFFSET(copy)    (((copy) + 1) * 64 * KiB)
#define VHDX_HEADER_SIZE            (4 * KiB)
#define VHDX_FIRST_SEQUENCE         2       /* the header of a new image */
#define VHDX_REGION_TABLE_OFFSET(copy) (((copy) + 3) * 64 * KiB)
#define VHDX_REGION_TABLE_SIZE      (64 * KiB)
#define VHDX_HEADER_SECTION_SIZE    VHDX_MIB
#define VHDX_CHECKSUM_OFFSET        4       /* in all that has one */

/* 2.2.3 and 2.6: entries of the region table and the metadata table */
#define VHDX_TABLE_ENTRY_SIZE       32
#define VHDX_REGION_ENTRY(i)        (16 + (i) * VHDX_TABLE_ENTRY_SIZE)
#define VHDX_METADATA_ENTRY(i)      (32 + (i) * VHDX_TABLE_ENTRY_SIZE)
#define VHDX_MAX_TABLE_ENTRIES      2047

/* 2.6: metadata items */
#define VHDX_METADATA_TABLE_SIZE    (64 * KiB)
#define VHDX_MAX_ITEM_SIZE          VHDX_MIB
#define VHDX_MAX_USER_ITEMS         1024
#define VHDX_MAX_DISK_SIZE          ((uint64_t)64 * TiB)
#define VHDX_MIN_BLOCK_SIZE         VHDX_MIB
#define VHDX_MAX_BLOCK_SIZE         (256 * VHDX_MIB)

/* 2.3 and 2.5: log entries and metadata pages are made of 4 KiB sectors */
#define VHDX_PAGE_SIZE              (4 * KiB)
#define VHDX_LOG_SECTOR             VHDX_PAGE_SIZE
#define VHDX_LOG_HEADER_SIZE        64
#define VHDX_LOG_DESC_SIZE          32
#define VHDX_LOG_FIRST_DESCS        126
#define VHDX_LOG_NEXT_DESCS         128
#define VHDX_MAX_LOG_SIZE           (4 * (uint64_t)GiB - VHDX_MIB)

typedef struct VHDXGuid {
    uuid_t id;
} VHDXGuid;

extern const VHDXGuid vhdx_guid_nil;

static inline bool vhdx_guid_equal(const VHDXGuid *a, const VHDXGuid *b)
{
    return !uuid_compare(a->id, b->id);
}

static inline bool vhdx_guid_is_nil(const VHDXGuid *guid)
{
    return uuid_is_null(guid->id);
}

/* Make a new random GUID, never the nil one. */
VHDXGuid vhdx_guid_new(void);

/* GUID from or to its 16 bytes on disk, mixed-endian (section 1.3). */
VHDXGuid vhdx_guid_decode(const uint8_t *buf);
void vhdx_guid_encode(const VHDXGuid *guid, uint8_t *buf);

/*
 * CRC-32C of @bytes at @buf, taking the four bytes at @crc_offset as zero
 * (section 2.2.2 and its like).
 */
uint32_t vhdx_checksum(const uint8_t *buf, size_t bytes, size_t crc_offset);

/*
 * The text in @units UTF-16 units at @buf, up to a NUL, for a terminal: control
 * characters are replaced by U+FFFD.  Returns UTF-8 to be freed with g_free(),
 * NULL where it is no UTF-16.
 */
char *vhdx_text_decode(const uint8_t *buf, size_t units);

/* What a message puts behind a word of which there are @count */
static inline const char *vhdx_plural(uint64_t count)
{
    return count == 1 ? "" : "s";
}

/* -- File identifier, section 2.2.1 -- */

/*
 * Fill @buf, VHDX_FILE_ID_SIZE bytes, with the signature and @creator (UTF-8,
 * cut to VHDX_CREATOR_CHARS UTF-16 units).
 */
void vhdx_file_id_encode(const char *creator, uint8_t *buf);

/*
 * Whether @buf, of @bytes bytes, begins with the file identifier's signature.
 */
bool vhdx_file_id_valid(const uint8_t *buf, size_t bytes);

/*
 * What a file is that begins with the @bytes bytes at @buf, for a message that
 * says "it is ...", or NULL if that is not known.
 */
const char *vhdx_other_format(const uint8_t *buf, size_t bytes);

/*
 * The creator in the file identifier @buf, of at least 8 + 512 bytes, as
 * vhdx_text_decode() gives it, but "" where the field is no UTF-16.
 */
char *vhdx_creator_decode(const uint8_t *buf);

/* -- Headers, section 2.2.2 -- */

typedef struct VHDXHeader {
    uint64_t sequence;
    VHDXGuid file_write_guid;
    VHDXGuid data_write_guid;
    VHDXGuid log_guid;
    uint16_t log_version;
    uint16_t version;
    uint32_t log_length;            /* bytes */
    uint64_t log_offset;            /* bytes from the start of the file */
} VHDXHeader;

/* Fill @buf, VHDX_HEADER_SIZE bytes, with @header and its checksum. */
void vhdx_header_encode(const VHDXHeader *header, uint8_t *buf);

/*
 * Read @header from @buf, VHDX_HEADER_SIZE bytes.  Returns false where the
 * signature or the checksum is wrong; @header is then not touched.  The fields
 * themselves are not judged.
 */
bool vhdx_header_decode(const uint8_t *buf, VHDXHeader *header);

/*
 * Which of two header copies is current: 0 or 1, or -1 with @errp set where
 * neither is @valid or both bear one sequence number but differ in @headers.
 */
int vhdx_header_choose(const VHDXHeader headers[2], const bool valid[2],
                       Error **errp);

/*
 * Judge the fields of a current header: versions, and the place of the log,
 * which may have no length if it holds nothing: for reading none is needed.
 * Returns 0, -ENOTSUP for versions this driver does not know, or -EINVAL.
 */
int vhdx_header_check(const VHDXHeader *header, Error **errp);

/* -- Log entries, section 2.3 -- */

typedef struct VHDXLogEntry {
    uint32_t length;                /* bytes */
    uint32_t tail;                  /* bytes from the start of the log */
    uint64_t sequence;
    uint32_t descriptors;
    VHDXGuid log_guid;
    uint64_t flushed_file_offset;   /* bytes */
    uint64_t last_file_offset;      /* bytes */
} VHDXLogEntry;

typedef enum VHDXLogDescType {
    VHDX_LOG_DESC_INVALID,
    VHDX_LOG_DESC_DATA,
    VHDX_LOG_DESC_ZERO,
} VHDXLogDescType;

typedef struct VHDXLogDesc {
    VHDXLogDescType type;
    uint64_t file_offset;           /* bytes */
    uint64_t zero_length;           /* bytes, of a zero descriptor */
    uint64_t sequence;
    uint8_t leading[8];             /* of a data descriptor: see data sectors */
    uint8_t trailing[4];
} VHDXLogDesc;

/* Sectors that the header and @descriptors descriptors of an entry take. */
static inline uint32_t vhdx_log_desc_sectors(uint32_t descriptors)
{
    return DIV_ROUND_UP((uint64_t)descriptors + 2, VHDX_LOG_NEXT_DESCS);
}

/*
 * Lay an entry that updates @pages metadata pages into @buf, which has room
 * for vhdx_log_entry_size(@pages) bytes, the sectors of descriptors being
 * zeros: page @i, VHDX_PAGE_SIZE bytes at @data[i], belongs at file offset
 * @offsets[i].  Fills the checksum; @entry's length and descriptors are set
 * here.
 */
void vhdx_log_entry_encode(VHDXLogEntry *entry, uint32_t pages,
                           const uint64_t *offsets, uint8_t *const *data,
                           uint8_t *buf);

static inline uint64_t vhdx_log_entry_size(uint32_t pages)
{
    return (uint64_t)(vhdx_log_desc_sectors(pages) + pages) * VHDX_LOG_SECTOR;
}

/*
 * Read the entry header at @buf, VHDX_LOG_HEADER_SIZE bytes, and judge what
 * can be judged from it alone in a log of @log_length bytes whose GUID is
 * @log_guid.  The checksum is not looked at: it covers the whole entry, and
 * vhdx_log_checksum_update() works it out.  Returns whether the header is good.
 */
bool vhdx_log_entry_decode(const uint8_t *buf, uint32_t log_length,
                           const VHDXGuid *log_guid, VHDXLogEntry *entry,
                           uint32_t *checksum);

/*
 * Continue the checksum of an entry over @bytes bytes at @buf; @first says
 * that they begin with the entry's header.  Start with @crc 0.
 */
uint32_t vhdx_log_checksum_update(uint32_t crc, const uint8_t *buf,
                                  size_t bytes, bool first);

/*
 * Read the descriptor at @buf, VHDX_LOG_DESC_SIZE bytes, of an entry with
 * @sequence.  @desc->type is VHDX_LOG_DESC_INVALID where signature, sequence
 * number or alignment are wrong.
 */
void vhdx_log_desc_decode(const uint8_t *buf, uint64_t sequence,
                          VHDXLogDesc *desc);

/* Whether the data sector at @buf belongs to the entry with @sequence. */
bool vhdx_log_data_valid(const uint8_t *buf, uint64_t sequence);

/*
 * Put together the page that the data sector @sector and its descriptor @desc
 * hold.  @page has VHDX_PAGE_SIZE bytes and may be @sector itself.
 */
void vhdx_log_data_decode(const uint8_t *sector, const VHDXLogDesc *desc,
                          uint8_t *page);

#endif
