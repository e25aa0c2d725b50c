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
 * SPDX-License-Identifier: LGPL-2.0-or-later
 */

#ifndef BLOCK_VHDX_FORMAT_H
#define BLOCK_VHDX_FORMAT_H

#include <uuid/uuid.h>
#include "qemu/units.h"

/* 2.2: the header section, and what every other object is aligned to */
#define VHDX_MIB                    ((uint64_t)MiB)
#define VHDX_FILE_ID_SIZE           (64 * KiB)
#define VHDX_CREATOR_CHARS          256
#define VHDX_HEADER_OFFSET(copy)    (((copy) + 1) * 64 * KiB)
#define VHDX_HEADER_SIZE            (4 * KiB)
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
extern const VHDXGuid vhdx_region_bat;
extern const VHDXGuid vhdx_region_metadata;
extern const VHDXGuid vhdx_item_file_parameters;
extern const VHDXGuid vhdx_item_disk_size;
extern const VHDXGuid vhdx_item_disk_id;
extern const VHDXGuid vhdx_item_logical_sector;
extern const VHDXGuid vhdx_item_physical_sector;
extern const VHDXGuid vhdx_item_parent_locator;
extern const VHDXGuid vhdx_item_unfinished;

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

/* -- Region table, section 2.2.3 -- */

typedef struct VHDXRegion {
    VHDXGuid guid;
    uint64_t offset;                /* bytes */
    uint32_t length;                /* bytes */
    uint32_t flags;                 /* bit 0: required */
    uint32_t held;                  /* bytes of it that nothing else may use */
} VHDXRegion;

#define VHDX_REGION_REQUIRED 1

/* Whether @region is the BAT's or the metadata's. */
bool vhdx_region_is_known(const VHDXRegion *region);

/*
 * Mark the known regions in the table @buf as required, as QEMU's own driver
 * did not; there are programs that refuse that.  Returns whether something has
 * changed; then the checksum is for vhdx_region_table_seal() to set.
 */
bool vhdx_region_table_require(uint8_t *buf);
void vhdx_region_table_seal(uint8_t *buf);

/*
 * Fill @buf, VHDX_REGION_TABLE_SIZE bytes, with @count entries and the
 * checksum.  Known regions are marked as required.
 */
void vhdx_region_table_encode(const VHDXRegion *regions, uint32_t count,
                              uint8_t *buf);

/* Whether signature and checksum of the region table copy @buf are right. */
bool vhdx_region_table_valid(const uint8_t *buf);

/*
 * Whether @region is none that this driver reads, and may be ignored.  Nothing
 * that is wrong with its place keeps the image from being read.
 */
bool vhdx_region_is_foreign(const VHDXRegion *region);

/*
 * Read and judge the region table @buf, a valid copy: counts, alignment,
 * duplicates, overlaps with the header section, the log (@log_offset and
 * @log_length, bytes) or each other, unknown required regions; both known
 * regions must be there.  A foreign region whose place is not good holds 0
 * bytes of it.  @regions gets the @count entries, freed by the
 * caller with g_free(); those of the BAT and the metadata are copied to @bat
 * and @metadata.  Returns 0, -ENOTSUP for an unknown required region, or
 * -EINVAL.
 */
int vhdx_region_table_decode(const uint8_t *buf, uint64_t log_offset,
                             uint32_t log_length, VHDXRegion **regions,
                             uint32_t *count, VHDXRegion *bat,
                             VHDXRegion *metadata, Error **errp);

/* -- Metadata region, section 2.6 -- */

#define VHDX_ITEM_USER      1
#define VHDX_ITEM_DISK      2
#define VHDX_ITEM_REQUIRED  4

/* The known items of a metadata region: what an image is. */
typedef struct VHDXParams {
    uint64_t disk_size;             /* bytes */
    uint32_t block_size;            /* bytes */
    uint32_t logical_sector;        /* bytes */
    uint32_t physical_sector;       /* bytes */
    bool leave_allocated;           /* LeaveBlockAllocated: a fixed image */
    bool has_parent;
    VHDXGuid disk_id;
} VHDXParams;

/* Bytes of the metadata region that vhdx_metadata_encode() fills. */
#define VHDX_METADATA_USED (VHDX_METADATA_TABLE_SIZE + 48)

/*
 * Fill @buf, VHDX_METADATA_USED bytes, with a metadata table and the items of
 * @params, an image without parent.
 */
void vhdx_metadata_encode(const VHDXParams *params, uint8_t *buf);

typedef struct VHDXItem {
    VHDXGuid guid;
    uint32_t offset;                /* bytes from the region's start */
    uint32_t length;                /* bytes */
    uint32_t flags;
} VHDXItem;

/*
 * Read and judge the metadata table @buf, VHDX_METADATA_TABLE_SIZE bytes, of a
 * region of @region_length bytes: counts, offsets, flags, duplicates, unknown
 * required items.  @items gets the @count entries, freed by the caller with
 * g_free().  Returns 0, -ENOTSUP for an unknown required item, or -EINVAL.
 */
int vhdx_metadata_table_decode(const uint8_t *buf, uint32_t region_length,
                               VHDXItem **items, uint32_t *count,
                               Error **errp);

/* The item @guid of a table, or NULL. */
const VHDXItem *vhdx_metadata_find(const VHDXItem *items, uint32_t count,
                                   const VHDXGuid *guid);

/*
 * Bytes of the known item @guid that vhdx_metadata_item_decode() takes, 0 for
 * an item that it does not know.
 */
uint32_t vhdx_metadata_item_size(const VHDXGuid *guid);

/* The flags that the known item @guid has, 0 for one that is not known. */
uint32_t vhdx_metadata_item_flags(const VHDXGuid *guid);

/*
 * Take the content @buf, vhdx_metadata_item_size() bytes, of the known item
 * @guid into @params.
 */
void vhdx_metadata_item_decode(const VHDXGuid *guid, const uint8_t *buf,
                               VHDXParams *params);

/* Judge @params as a whole.  Returns 0 or -EINVAL. */
int vhdx_params_check(const VHDXParams *params, Error **errp);

/* -- Parent locator, section 2.6.2.6: locator.c -- */

/*
 * The path of the parent by the locator @buf of @bytes bytes, as
 * vhdx_text_decode() gives it.  Returns NULL with @errp set where the locator
 * is damaged; the message is a sentence's end.
 */
char *vhdx_locator_parent(const uint8_t *buf, uint32_t bytes, Error **errp);

/* -- BAT, section 2.5 -- */

#define VHDX_BAT_ENTRY_SIZE     8
#define VHDX_BAT_PAGE_ENTRIES   (VHDX_PAGE_SIZE / VHDX_BAT_ENTRY_SIZE)
#define VHDX_BAT_STATE_MASK     7ULL
#define VHDX_BAT_OFFSET_MASK    (~0ULL << 20)
#define VHDX_BAT_RESERVED_MASK  (~(VHDX_BAT_STATE_MASK | VHDX_BAT_OFFSET_MASK))

typedef enum VHDXBlockState {
    VHDX_BLOCK_NOT_PRESENT = 0,
    VHDX_BLOCK_UNDEFINED = 1,
    VHDX_BLOCK_ZERO = 2,
    VHDX_BLOCK_UNMAPPED = 3,
    VHDX_BLOCK_UNMAPPED_DRAFT = 5,  /* as files of the 0.95 draft have it */
    VHDX_BLOCK_FULLY_PRESENT = 6,
    VHDX_BLOCK_PARTIALLY_PRESENT = 7,
} VHDXBlockState;

/* A BAT entry: its state, and the offset in bytes of the object it names. */
static inline uint64_t vhdx_bat_entry(VHDXBlockState state, uint64_t offset)
{
    return state | offset;
}

static inline VHDXBlockState vhdx_bat_state(uint64_t entry)
{
    return entry & VHDX_BAT_STATE_MASK;
}

static inline uint64_t vhdx_bat_offset(uint64_t entry)
{
    return entry & VHDX_BAT_OFFSET_MASK;
}

/* Numbers that follow from disk size, block size and logical sector size. */
typedef struct VHDXGeometry {
    uint64_t disk_size;             /* bytes */
    uint32_t block_size;            /* bytes */
    unsigned block_bits;            /* log2 of block_size */
    unsigned chunk_bits;            /* log2 of the chunk ratio */
    uint64_t blocks;                /* payload blocks */
    uint64_t chunks;                /* sector bitmap blocks of a child */
    uint64_t bat_entries;           /* payload and sector bitmap entries */
} VHDXGeometry;

/* Work out @geo from valid @params. */
void vhdx_geometry_init(VHDXGeometry *geo, const VHDXParams *params);

/* How many bytes a region for the BAT needs, which is never empty. */
uint32_t vhdx_bat_region_length(const VHDXGeometry *geo);

/* How many bytes of the disk payload block @block holds. */
static inline uint64_t vhdx_block_bytes(const VHDXGeometry *geo, uint64_t block)
{
    return block == geo->blocks - 1 ?
           geo->disk_size - (block << geo->block_bits) : geo->block_size;
}

/* The BAT index of payload block @block. */
static inline uint64_t vhdx_bat_index(const VHDXGeometry *geo, uint64_t block)
{
    return block + (block >> geo->chunk_bits);
}

/* The BAT index of the sector bitmap block of chunk @chunk. */
static inline uint64_t vhdx_bat_bitmap_index(const VHDXGeometry *geo,
                                             uint64_t chunk)
{
    return ((chunk + 1) << geo->chunk_bits) + chunk;
}

/*
 * Whether BAT entry @index is that of a sector bitmap block; if not, @block
 * gets the number of its payload block.
 */
bool vhdx_bat_index_is_bitmap(const VHDXGeometry *geo, uint64_t index,
                              uint64_t *block);

/*
 * What raw entry @entry of an image without parent should be, where that is
 * certain if its state is right: without reserved bits, without an offset in a
 * state that has none, not in the draft's state; zero where it is that of a
 * sector bitmap block (@bitmap).
 */
uint64_t vhdx_bat_entry_mend(uint64_t entry, bool bitmap);

/*
 * Fill @buf with @count BAT entries from @index on, as they stand in a new
 * image: payload block n in @state and, when @first_block is not 0, at
 * @first_block + n * block size; sector bitmap entries, and all behind the
 * last entry, zero.
 */
void vhdx_bat_fill(const VHDXGeometry *geo, uint64_t index, uint64_t count,
                   VHDXBlockState state, uint64_t first_block, uint8_t *buf);

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
 * for vhdx_log_entry_size(@pages) bytes: page @i, VHDX_PAGE_SIZE bytes at
 * @data[i], belongs at file offset @offsets[i].  Fills the checksum; @entry's
 * length and descriptors are set here.
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
 * vhdx_log_entry_checksum() gets it.  Returns whether the header is good.
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
