/*
 * VHDX: encoders and decoders
 *
 * Bytes to structs and back for the file identifier, headers and log entries.
 * What a field may hold is judged here as well, of a header once it is known to
 * be the current one.  Region tables and metadata items, which are tables of
 * their own, are in tables.c; entries of the BAT are in geometry.c and
 * bat-entry.c.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "block/vhdx/crc.h"
#include "block/vhdx/format.h"

#define FILE_ID_SIGNATURE   "vhdxfile"
#define HEADER_SIGNATURE    "head"
#define ENTRY_SIGNATURE     "loge"
#define DESC_SIGNATURE      "desc"
#define ZERO_SIGNATURE      "zero"
#define DATA_SIGNATURE      "data"

const VHDXGuid vhdx_guid_nil;

VHDXGuid vhdx_guid_new(void)
{
    VHDXGuid guid;

    uuid_generate_random(guid.id);
    return guid;
}

/* The first three fields of a GUID are little-endian on disk. */
static void guid_swap(const uint8_t *from, uint8_t *to)
{
    static const uint8_t place[16] = {
        3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15
    };

    for (int i = 0; i < 16; i++) {
        to[i] = from[place[i]];
    }
}

VHDXGuid vhdx_guid_decode(const uint8_t *buf)
{
    VHDXGuid guid;

    guid_swap(buf, guid.id);
    return guid;
}

void vhdx_guid_encode(const VHDXGuid *guid, uint8_t *buf)
{
    guid_swap(guid->id, buf);
}

/* Go over @buf with the four bytes at @crc_offset read as zero. */
static uint32_t crc_skipping_field(uint32_t crc, const uint8_t *buf,
                                   size_t bytes, size_t crc_offset)
{
    static const uint8_t zero[4];
    size_t rest = crc_offset + sizeof(zero);

    crc = vhdx_crc_continue(crc, buf, crc_offset);
    crc = vhdx_crc_continue(crc, zero, sizeof(zero));
    return vhdx_crc_continue(crc, buf + rest, bytes - rest);
}

uint32_t vhdx_checksum(const uint8_t *buf, size_t bytes, size_t crc_offset)
{
    return ~crc_skipping_field(~0U, buf, bytes, crc_offset);
}

/* -- File identifier -- */

void vhdx_file_id_encode(const char *creator, uint8_t *buf)
{
    g_autofree gunichar2 *utf16 = NULL;
    glong chars = 0;

    memset(buf, 0, VHDX_FILE_ID_SIZE);
    memcpy(buf, FILE_ID_SIGNATURE, 8);

    utf16 = g_utf8_to_utf16(creator, -1, NULL, &chars, NULL);
    if (chars > VHDX_CREATOR_CHARS) {
        /* Do not cut a surrogate pair in two. */
        chars = VHDX_CREATOR_CHARS;
        chars -= (utf16[chars - 1] & 0xfc00) == 0xd800;
    }
    for (glong i = 0; utf16 && i < chars; i++) {
        stw_le_p(buf + 8 + i * 2, utf16[i]);
    }
}

bool vhdx_file_id_valid(const uint8_t *buf, size_t bytes)
{
    return bytes >= 8 && !memcmp(buf, FILE_ID_SIGNATURE, 8);
}

const char *vhdx_other_format(const uint8_t *buf, size_t bytes)
{
    static const struct {
        size_t at;
        size_t length;
        const char *magic;
        const char *what;
    } known[] = {
        { 0, 8, "conectix", "a VHD image, the older format: use -f vpc" },
        { 0, 4, "QFI\xfb", "a qcow2 image: use -f qcow2" },
        { 0, 4, "KDMV", "a VMDK image: use -f vmdk" },
        { 0, 21, "# Disk DescriptorFile", "a VMDK image: use -f vmdk" },
        { 0x40, 4, "\x7f\x10\xda\xbe", "a VDI image: use -f vdi" },
        { 0, 4, "QED", "a QED image: use -f qed" },
        { 0, 6, "LUKS\xba\xbe", "a LUKS volume: use -f luks" },
        { 0, 3, "\x1f\x8b\x08", "compressed with gzip: decompress it first" },
        { 0, 6, "\xfd" "7zXZ", "compressed with xz: decompress it first" },
        { 0, 4, "PK\3\4", "a zip file: unpack it first" },
        { 0, 3, "BZh", "compressed with bzip2: decompress it first" },
        { 0, 4, "\x28\xb5\x2f\xfd",
          "compressed with zstd: decompress it first" },
        { 0, 6, "7z\xbc\xaf\x27\x1c", "a 7z file: unpack it first" },
    };

    for (int i = 0; i < ARRAY_SIZE(known); i++) {
        if (known[i].at + known[i].length <= bytes &&
            !memcmp(buf + known[i].at, known[i].magic, known[i].length)) {
            return known[i].what;
        }
    }
    return NULL;
}

char *vhdx_text_decode(const uint8_t *buf, size_t units)
{
    g_autofree gunichar2 *utf16 = g_new(gunichar2, units + 1);
    g_autofree char *utf8 = NULL;
    GString *text;
    size_t n = 0;

    while (n < units && (utf16[n] = lduw_le_p(buf + n * 2))) {
        n++;
    }
    utf8 = g_utf16_to_utf8(utf16, n, NULL, NULL, NULL);
    if (!utf8) {
        return NULL;
    }
    text = g_string_new(NULL);
    for (const char *c = utf8; *c; c = g_utf8_next_char(c)) {
        gunichar value = g_utf8_get_char(c);

        g_string_append_unichar(text, g_unichar_iscntrl(value) ? 0xfffd :
                                      value);
    }
    return g_string_free(text, false);
}

char *vhdx_creator_decode(const uint8_t *buf)
{
    return vhdx_text_decode(buf + 8, VHDX_CREATOR_CHARS) ?: g_strdup("");
}

/* -- Headers -- */

void vhdx_header_encode(const VHDXHeader *header, uint8_t *buf)
{
    memset(buf, 0, VHDX_HEADER_SIZE);
    memcpy(buf, HEADER_SIGNATURE, 4);
    stq_le_p(buf + 8, header->sequence);
    vhdx_guid_encode(&header->file_write_guid, buf + 16);
    vhdx_guid_encode(&header->data_write_guid, buf + 32);
    vhdx_guid_encode(&header->log_guid, buf + 48);
    stw_le_p(buf + 64, header->log_version);
    stw_le_p(buf + 66, header->version);
    stl_le_p(buf + 68, header->log_length);
    stq_le_p(buf + 72, header->log_offset);
    stl_le_p(buf + VHDX_CHECKSUM_OFFSET,
             vhdx_checksum(buf, VHDX_HEADER_SIZE, VHDX_CHECKSUM_OFFSET));
}

bool vhdx_header_decode(const uint8_t *buf, VHDXHeader *header)
{
    if (memcmp(buf, HEADER_SIGNATURE, 4) ||
        (uint32_t)ldl_le_p(buf + VHDX_CHECKSUM_OFFSET) !=
        vhdx_checksum(buf, VHDX_HEADER_SIZE, VHDX_CHECKSUM_OFFSET)) {
        return false;
    }
    *header = (VHDXHeader) {
        .sequence = ldq_le_p(buf + 8),
        .file_write_guid = vhdx_guid_decode(buf + 16),
        .data_write_guid = vhdx_guid_decode(buf + 32),
        .log_guid = vhdx_guid_decode(buf + 48),
        .log_version = lduw_le_p(buf + 64),
        .version = lduw_le_p(buf + 66),
        .log_length = ldl_le_p(buf + 68),
        .log_offset = ldq_le_p(buf + 72),
    };
    return true;
}

static bool header_equal(const VHDXHeader *a, const VHDXHeader *b)
{
    return a->sequence == b->sequence &&
           vhdx_guid_equal(&a->file_write_guid, &b->file_write_guid) &&
           vhdx_guid_equal(&a->data_write_guid, &b->data_write_guid) &&
           vhdx_guid_equal(&a->log_guid, &b->log_guid) &&
           a->log_version == b->log_version && a->version == b->version &&
           a->log_length == b->log_length && a->log_offset == b->log_offset;
}

int vhdx_header_choose(const VHDXHeader headers[2], const bool valid[2],
                       Error **errp)
{
    if (!valid[0] && !valid[1]) {
        error_setg(errp, "Neither VHDX header has a valid signature and "
                   "checksum");
        return -1;
    }
    if (!valid[0] || !valid[1]) {
        return valid[0] ? 0 : 1;
    }
    if (headers[0].sequence == headers[1].sequence &&
        !header_equal(&headers[0], &headers[1])) {
        error_setg(errp, "Both VHDX headers have SequenceNumber %" PRIu64
                   " but differ", headers[0].sequence);
        return -1;
    }
    return headers[1].sequence > headers[0].sequence ? 1 : 0;
}

int vhdx_header_check(const VHDXHeader *header, Error **errp)
{
    if (header->version != 1) {
        error_setg(errp, "VHDX header has unsupported Version %u",
                   header->version);
        return -ENOTSUP;
    }
    if (header->log_version != 0 && !vhdx_guid_is_nil(&header->log_guid)) {
        error_setg(errp, "VHDX log has unsupported LogVersion %u",
                   header->log_version);
        return -ENOTSUP;
    }
    if (!header->log_length && vhdx_guid_is_nil(&header->log_guid)) {
        /* There is no log, and where it would be means nothing. */
        return 0;
    }
    if (!header->log_length) {
        error_setg(errp, "VHDX header has LogLength 0, but names a log by its "
                   "LogGuid");
        return -EINVAL;
    }
    if (header->log_length % VHDX_MIB) {
        error_setg(errp, "VHDX header has invalid LogLength %" PRIu32
                   " (not a multiple of 1 MiB)", header->log_length);
        return -EINVAL;
    }
    if (header->log_offset < VHDX_HEADER_SECTION_SIZE ||
        header->log_offset % VHDX_MIB ||
        header->log_offset > INT64_MAX - header->log_length) {
        error_setg(errp, "VHDX header has invalid LogOffset %" PRIu64,
                   header->log_offset);
        return -EINVAL;
    }
    return 0;
}

/* -- Log entries -- */

static void log_desc_encode(uint8_t *buf, uint64_t file_offset,
                            uint64_t sequence, const uint8_t *page)
{
    memcpy(buf, DESC_SIGNATURE, 4);
    memcpy(buf + 4, page + VHDX_PAGE_SIZE - 4, 4);
    memcpy(buf + 8, page, 8);
    stq_le_p(buf + 16, file_offset);
    stq_le_p(buf + 24, sequence);
}

static void log_data_encode(uint8_t *buf, uint64_t sequence,
                            const uint8_t *page)
{
    memcpy(buf, DATA_SIGNATURE, 4);
    stl_le_p(buf + 4, sequence >> 32);
    memcpy(buf + 8, page + 8, VHDX_PAGE_SIZE - 12);
    stl_le_p(buf + VHDX_LOG_SECTOR - 4, sequence);
}

void vhdx_log_entry_encode(VHDXLogEntry *entry, uint32_t pages,
                           const uint64_t *offsets, uint8_t *const *data,
                           uint8_t *buf)
{
    size_t desc_bytes = vhdx_log_desc_sectors(pages) * VHDX_LOG_SECTOR;

    entry->length = vhdx_log_entry_size(pages);
    entry->descriptors = pages;

    memcpy(buf, ENTRY_SIGNATURE, 4);
    stl_le_p(buf + 8, entry->length);
    stl_le_p(buf + 12, entry->tail);
    stq_le_p(buf + 16, entry->sequence);
    stl_le_p(buf + 24, entry->descriptors);
    vhdx_guid_encode(&entry->log_guid, buf + 32);
    stq_le_p(buf + 48, entry->flushed_file_offset);
    stq_le_p(buf + 56, entry->last_file_offset);

    for (uint32_t i = 0; i < pages; i++) {
        log_desc_encode(buf + VHDX_LOG_HEADER_SIZE + i * VHDX_LOG_DESC_SIZE,
                        offsets[i], entry->sequence, data[i]);
        log_data_encode(buf + desc_bytes + (size_t)i * VHDX_LOG_SECTOR,
                        entry->sequence, data[i]);
    }
    stl_le_p(buf + VHDX_CHECKSUM_OFFSET,
             vhdx_checksum(buf, entry->length, VHDX_CHECKSUM_OFFSET));
}

bool vhdx_log_entry_decode(const uint8_t *buf, uint32_t log_length,
                           const VHDXGuid *log_guid, VHDXLogEntry *entry,
                           uint32_t *checksum)
{
    if (memcmp(buf, ENTRY_SIGNATURE, 4)) {
        return false;
    }
    *checksum = ldl_le_p(buf + VHDX_CHECKSUM_OFFSET);
    *entry = (VHDXLogEntry) {
        .length = ldl_le_p(buf + 8),
        .tail = ldl_le_p(buf + 12),
        .sequence = ldq_le_p(buf + 16),
        .descriptors = ldl_le_p(buf + 24),
        .log_guid = vhdx_guid_decode(buf + 32),
        .flushed_file_offset = ldq_le_p(buf + 48),
        .last_file_offset = ldq_le_p(buf + 56),
    };
    return vhdx_guid_equal(&entry->log_guid, log_guid) &&
           entry->sequence != 0 &&
           entry->length != 0 && entry->length <= log_length &&
           entry->length % VHDX_LOG_SECTOR == 0 &&
           entry->tail < log_length && entry->tail % VHDX_LOG_SECTOR == 0 &&
           vhdx_log_desc_sectors(entry->descriptors) <=
           entry->length / VHDX_LOG_SECTOR &&
           entry->flushed_file_offset % VHDX_MIB == 0 &&
           entry->last_file_offset % VHDX_MIB == 0 &&
           entry->flushed_file_offset <= INT64_MAX &&
           entry->last_file_offset <= INT64_MAX;
}

uint32_t vhdx_log_checksum_update(uint32_t crc, const uint8_t *buf,
                                  size_t bytes, bool first)
{
    crc = ~crc;
    if (first) {
        return ~crc_skipping_field(crc, buf, bytes, VHDX_CHECKSUM_OFFSET);
    }
    return ~vhdx_crc_continue(crc, buf, bytes);
}

void vhdx_log_desc_decode(const uint8_t *buf, uint64_t sequence,
                          VHDXLogDesc *desc)
{
    *desc = (VHDXLogDesc) {
        .file_offset = ldq_le_p(buf + 16),
        .sequence = ldq_le_p(buf + 24),
    };

    if (desc->sequence != sequence || desc->file_offset % VHDX_PAGE_SIZE ||
        desc->file_offset > INT64_MAX - VHDX_PAGE_SIZE) {
        return;
    }
    if (!memcmp(buf, DESC_SIGNATURE, 4)) {
        memcpy(desc->trailing, buf + 4, sizeof(desc->trailing));
        memcpy(desc->leading, buf + 8, sizeof(desc->leading));
        desc->type = VHDX_LOG_DESC_DATA;
    } else if (!memcmp(buf, ZERO_SIGNATURE, 4)) {
        desc->zero_length = ldq_le_p(buf + 8);
        if (desc->zero_length % VHDX_PAGE_SIZE == 0 &&
            desc->zero_length <= INT64_MAX - desc->file_offset) {
            desc->type = VHDX_LOG_DESC_ZERO;
        }
    }
}

bool vhdx_log_data_valid(const uint8_t *buf, uint64_t sequence)
{
    return !memcmp(buf, DATA_SIGNATURE, 4) &&
           (uint32_t)ldl_le_p(buf + 4) == sequence >> 32 &&
           (uint32_t)ldl_le_p(buf + VHDX_LOG_SECTOR - 4) == (uint32_t)sequence;
}

void vhdx_log_data_decode(const uint8_t *sector, const VHDXLogDesc *desc,
                          uint8_t *page)
{
    memmove(page + 8, sector + 8, VHDX_PAGE_SIZE - 12);
    memcpy(page, desc->leading, sizeof(desc->leading));
    memcpy(page + VHDX_PAGE_SIZE - 4, desc->trailing, sizeof(desc->trailing));
}
