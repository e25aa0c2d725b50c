/*
 * VHDX: check of headers, region tables and metadata
 *
 * Open has judged all that it uses.  Left are the copies that it does not use,
 * and fields that it ignores.  A copy that is damaged is an error, as there is
 * no other then, and is written anew from the one in use.  So is one that says
 * something else about the regions, but nobody knows which is right.
 *
 * What a reader ignores is no error, but put in order with -r all: what the
 * header copy says that is out of date, reserved fields, flags of known items,
 * a known region that is not marked as required, as QEMU once left it.  Old
 * bytes behind the last entry of a table, which Windows leaves, are not told.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "block/vhdx/check-report.h"
#include "block/vhdx/check-tables.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/file.h"
#include "block/vhdx/parent.h"
#include "block/vhdx/replay.h"

/* What must be zero, by place in its structure. */
#define HEADER_RESERVED         80
#define REGION_RESERVED         12
#define REGION_FLAGS            28
#define METADATA_RESERVED       8
#define METADATA_RESERVED2      12
#define ITEM_FLAGS              24
#define ITEM_RESERVED           28
#define FILE_PARAMETERS_BITS    4

#define ITEM_FLAGS_KNOWN \
    (VHDX_ITEM_USER | VHDX_ITEM_DISK | VHDX_ITEM_REQUIRED)
#define FILE_PARAMETERS_KNOWN   3U

/* What is found, in words, collected before the first is mended */
typedef struct Findings {
    GPtrArray *errors;
    GPtrArray *odd;
} Findings;

static void G_GNUC_PRINTF(2, 3)
add(GPtrArray *texts, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    g_ptr_array_add(texts, g_strdup_vprintf(format, ap));
    va_end(ap);
}

/* -- Headers -- */

/* Find what differs between valid header copy @copy and the current one. */
static void header_compare(BDRVVHDXState *s, int copy, const VHDXHeader *h,
                           GPtrArray *odd)
{
    if (h->version != s->header.version) {
        add(odd, "Header copy %d has Version %u, the current one has %u",
            copy + 1, h->version, s->header.version);
    }
    if (h->log_length != s->header.log_length) {
        add(odd, "Header copy %d has LogLength %" PRIu32
            ", the current one has %" PRIu32, copy + 1, h->log_length,
            s->header.log_length);
    }
    if (h->log_offset != s->header.log_offset) {
        add(odd, "Header copy %d has LogOffset %" PRIu64
            ", the current one has %" PRIu64, copy + 1, h->log_offset,
            s->header.log_offset);
    }
}

/*
 * Both copies; all that is found is mended by the first update.  GUIDs and
 * sequence numbers may differ: not all programs write both copies.
 */
static int coroutine_fn GRAPH_RDLOCK
headers_check(BlockDriverState *bs, const Findings *f)
{
    BDRVVHDXState *s = bs->opaque;
    g_autofree uint8_t *buf = g_malloc(VHDX_HEADER_SIZE);

    for (int i = 0; i < 2; i++) {
        VHDXHeader h;
        int ret = vhdx_file_pread(bs, VHDX_HEADER_OFFSET(i),
                                  VHDX_HEADER_SIZE, buf);

        if (ret < 0) {
            return ret;
        }
        if (!vhdx_header_decode(buf, &h)) {
            add(f->errors, "Header copy %d has no valid signature and "
                "checksum", i + 1);
            continue;
        }
        header_compare(s, i, &h, f->odd);
        if (h.log_version != 0) {
            add(f->odd, "Header copy %d has LogVersion %u", i + 1,
                h.log_version);
        }
        if (!buffer_is_zero(buf + HEADER_RESERVED,
                            VHDX_HEADER_SIZE - HEADER_RESERVED)) {
            add(f->odd, "Header copy %d has reserved bytes set", i + 1);
        }
    }
    return 0;
}

/* -- Region tables -- */

static uint32_t region_count(const uint8_t *buf)
{
    return MIN((uint32_t)ldl_le_p(buf + 8), VHDX_MAX_TABLE_ENTRIES);
}

/*
 * Find and put right what is odd in the table copy @buf: reserved fields, and
 * known regions that are not marked as required.
 */
static void region_table_clear(uint8_t *buf, int copy, GPtrArray *odd)
{
    uint32_t reserved = ldl_le_p(buf + REGION_RESERVED);

    if (reserved) {
        add(odd, "Region table copy %d has reserved bytes set: 0x%08" PRIx32,
            copy + 1, reserved);
        stl_le_p(buf + REGION_RESERVED, 0);
    }
    for (uint32_t i = 0; i < region_count(buf); i++) {
        uint8_t *entry = buf + VHDX_REGION_ENTRY(i);
        uint32_t flags = ldl_le_p(entry + REGION_FLAGS);

        if (flags & ~VHDX_REGION_REQUIRED) {
            add(odd, "Region table copy %d, entry %" PRIu32 " has reserved "
                "bits set: 0x%08" PRIx32, copy + 1, i, flags);
            stl_le_p(entry + REGION_FLAGS, flags & VHDX_REGION_REQUIRED);
        }
    }
    if (vhdx_region_table_require(buf)) {
        add(odd, "Region table copy %d does not mark the BAT and metadata "
            "regions as required", copy + 1);
    }
}

/* Find what differs between two valid copies but for reserved fields. */
static void region_tables_compare(VHDXCheck *check, const uint8_t *a,
                                  const uint8_t *b)
{
    uint32_t count = region_count(a);

    if (count != region_count(b)) {
        vhdx_check_error(check, "Region table copy 1 has EntryCount %" PRIu32
                         ", copy 2 has %" PRIu32, count, region_count(b));
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        size_t at = VHDX_REGION_ENTRY(i);

        if (memcmp(a + at, b + at, VHDX_TABLE_ENTRY_SIZE)) {
            vhdx_check_error(check, "Region table copy 1, entry %" PRIu32
                             " has FileOffset %" PRIu64 " and Length %" PRIu32
                             ", but copy 2 differs with %" PRIu64 " and %"
                             PRIu32, i, ldq_le_p(a + at + 16),
                             (uint32_t)ldl_le_p(a + at + 24),
                             ldq_le_p(b + at + 16),
                             (uint32_t)ldl_le_p(b + at + 24));
        }
    }
}

/* Make the checksum right and put the table where @copy is. */
static int coroutine_fn GRAPH_RDLOCK
region_table_put(BlockDriverState *bs, int copy, uint8_t *buf)
{
    vhdx_region_table_seal(buf);
    return vhdx_commit_put(bs, VHDX_REGION_TABLE_OFFSET(copy),
                           VHDX_REGION_TABLE_SIZE, buf);
}

/* Tell of regions that nobody needs to know, and that are not there. */
static void foreign_regions_check(BDRVVHDXState *s, VHDXCheck *check)
{
    for (uint32_t i = 0; i < s->region_count; i++) {
        const VHDXRegion *r = &s->regions[i];

        if (vhdx_region_is_foreign(r) && (!r->held || r->held < r->length)) {
            char guid[UUID_STR_LEN];

            uuid_unparse_lower(r->guid.id, guid);
            vhdx_check_note(check, "Region %s, which is not required and not "
                            "known, has no place of its own in the file: "
                            "FileOffset %" PRIu64 ", Length %" PRIu32, guid,
                            r->offset, r->length);
        }
    }
}

/* Read both copies to @tables, in order, and note what is wrong with them. */
static int coroutine_fn GRAPH_RDLOCK
region_tables_read(BlockDriverState *bs, uint8_t *const *tables,
                   const bool *damaged, const Findings *f)
{
    for (int i = 0; i < 2; i++) {
        int ret = vhdx_replay_read(bs, VHDX_REGION_TABLE_OFFSET(i),
                                   VHDX_REGION_TABLE_SIZE, tables[i]);

        if (ret < 0) {
            return ret;
        }
        if (damaged[i]) {
            add(f->errors, "Region table copy %d has no valid signature and "
                "checksum", i + 1);
        } else {
            region_table_clear(tables[i], i, f->odd);
        }
    }
    return 0;
}

/* Tell of @f.  Returns whether it is to be mended, or -errno. */
static int coroutine_fn GRAPH_RDLOCK
findings_tell(BlockDriverState *bs, VHDXCheck *check, const Findings *f)
{
    int ret = 0;

    for (guint i = 0; i < f->errors->len && ret >= 0; i++) {
        ret = vhdx_check_mend(bs, check, "%s",
                              (char *)g_ptr_array_index(f->errors, i));
    }
    for (guint i = 0; i < f->odd->len && ret >= 0; i++) {
        ret = vhdx_check_odd(bs, check, "%s",
                             (char *)g_ptr_array_index(f->odd, i));
    }
    return ret;
}

int coroutine_fn vhdx_check_copies(BlockDriverState *bs, VHDXCheck *check)
{
    BDRVVHDXState *s = bs->opaque;
    g_autofree uint8_t *buf = g_malloc(2 * VHDX_REGION_TABLE_SIZE);
    uint8_t *tables[] = { buf, buf + VHDX_REGION_TABLE_SIZE };
    bool damaged[] = { s->mend_region_table[0], s->mend_region_table[1] };
    g_autoptr(GPtrArray) errors = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) odd = g_ptr_array_new_with_free_func(g_free);
    Findings f = { .errors = errors, .odd = odd };
    guint odd_headers;
    int ret;

    ret = headers_check(bs, &f);
    if (ret < 0) {
        return ret;
    }
    odd_headers = odd->len;
    ret = region_tables_read(bs, tables, damaged, &f);
    if (ret < 0) {
        return ret;
    }
    if (!damaged[0] && !damaged[1]) {
        region_tables_compare(check, tables[0], tables[1]);
    }
    foreign_regions_check(s, check);
    ret = findings_tell(bs, check, &f);
    if (ret <= 0 || odd->len == odd_headers) {
        /* Opening the log has mended damaged copies, and all of the headers. */
        return MIN(ret, 0);
    }
    for (int i = 0; i < 2; i++) {
        ret = region_table_put(bs, i, tables[damaged[i] ? !i : i]);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

/* -- Metadata -- */

/*
 * Clear the 32-bit field at @offset of the file, of which @known bits may be
 * set; @what names it.
 */
static int coroutine_fn GRAPH_RDLOCK
field_check(BlockDriverState *bs, VHDXCheck *check, uint64_t offset,
            uint32_t value, uint32_t known, const char *what)
{
    uint8_t buf[4];
    int ret;

    if (!(value & ~known)) {
        return 0;
    }
    ret = vhdx_check_odd(bs, check, "%s has reserved bits set: 0x%08" PRIx32,
                         what, value);
    if (ret <= 0) {
        return ret;
    }
    stl_le_p(buf, value & known);
    return vhdx_commit_put(bs, offset, sizeof(buf), buf);
}

/* The table's own reserved fields: two bytes, and 20 more */
static int coroutine_fn GRAPH_RDLOCK
table_head_check(BlockDriverState *bs, VHDXCheck *check, const uint8_t *table)
{
    BDRVVHDXState *s = bs->opaque;
    static const uint8_t zero[VHDX_METADATA_ENTRY(0) - METADATA_RESERVED2];
    uint64_t offset = s->metadata.offset;
    int ret;

    if (!lduw_le_p(table + METADATA_RESERVED) &&
        buffer_is_zero(table + METADATA_RESERVED2, sizeof(zero))) {
        return 0;
    }
    ret = vhdx_check_odd(bs, check, "The metadata table has reserved bytes "
                          "set");
    if (ret <= 0) {
        return ret;
    }
    ret = vhdx_commit_put(bs, offset + METADATA_RESERVED, 2, zero);
    if (ret < 0) {
        return ret;
    }
    return vhdx_commit_put(bs, offset + METADATA_RESERVED2, sizeof(zero), zero);
}

static int coroutine_fn GRAPH_RDLOCK
item_check(BlockDriverState *bs, VHDXCheck *check, const VHDXItem *item,
           const uint8_t *entry, uint64_t offset)
{
    uint32_t expected = vhdx_metadata_item_flags(&item->guid);
    g_autofree char *what = NULL;
    char guid[UUID_STR_LEN];
    uint8_t buf[4];
    int ret;

    uuid_unparse_lower(item->guid.id, guid);
    what = g_strdup_printf("The reserved field of metadata item %s", guid);
    ret = field_check(bs, check, offset + ITEM_RESERVED,
                      ldl_le_p(entry + ITEM_RESERVED), 0, what);
    if (ret < 0) {
        return ret;
    }
    if (!expected || (item->flags & VHDX_ITEM_USER)) {
        g_free(what);
        what = g_strdup_printf("Metadata item %s", guid);
        return field_check(bs, check, offset + ITEM_FLAGS, item->flags,
                           ITEM_FLAGS_KNOWN, what);
    }
    if (item->flags == expected) {
        return 0;
    }
    ret = vhdx_check_odd(bs, check, "Metadata item %s has flags 0x%" PRIx32
                         " in place of 0x%" PRIx32, guid, item->flags,
                         expected);
    if (ret <= 0) {
        return ret;
    }
    stl_le_p(buf, expected);
    return vhdx_commit_put(bs, offset + ITEM_FLAGS, sizeof(buf), buf);
}

/* The table, into @items, of which there are @count, and each of its entries */
static int coroutine_fn GRAPH_RDLOCK
table_check(BlockDriverState *bs, VHDXCheck *check, VHDXItem **items,
            uint32_t *count)
{
    BDRVVHDXState *s = bs->opaque;
    g_autofree uint8_t *table = g_malloc(VHDX_METADATA_TABLE_SIZE);
    int ret;

    ret = vhdx_replay_read(bs, s->metadata.offset, VHDX_METADATA_TABLE_SIZE,
                           table);
    if (ret < 0) {
        return ret;
    }
    ret = vhdx_metadata_table_decode(table, s->metadata.length, items, count,
                                     NULL);
    if (ret < 0) {
        return ret;
    }
    ret = table_head_check(bs, check, table);
    if (ret < 0) {
        return ret;
    }
    for (uint32_t i = 0; i < *count; i++) {
        size_t at = VHDX_METADATA_ENTRY(i);

        ret = item_check(bs, check, &(*items)[i], table + at,
                         s->metadata.offset + at);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

/*
 * A child is of the same virtual disk as its parent, if that is attached.  The
 * linkage is what tells that they belong together: it has been judged.
 */
static void GRAPH_RDLOCK disk_id_check(BlockDriverState *bs, VHDXCheck *check)
{
    BDRVVHDXState *s = bs->opaque, *p;
    BlockDriverState *parent = vhdx_parent_node(bs);
    char own[UUID_STR_LEN], has[UUID_STR_LEN];

    if (!parent || parent->drv != bs->drv) {
        return;
    }
    p = parent->opaque;
    if (!vhdx_guid_equal(&s->params.disk_id, &p->params.disk_id)) {
        uuid_unparse_lower(s->params.disk_id.id, own);
        uuid_unparse_lower(p->params.disk_id.id, has);
        vhdx_check_note(check, "The Virtual Disk ID is %s, but that of the "
                        "parent '%s' is %s", own, parent->filename, has);
    }
}

int coroutine_fn vhdx_check_metadata(BlockDriverState *bs, VHDXCheck *check)
{
    BDRVVHDXState *s = bs->opaque;
    g_autofree VHDXItem *items = NULL;
    const VHDXItem *item;
    uint8_t bits[4];
    uint32_t count;
    uint64_t offset;
    int ret;

    ret = table_check(bs, check, &items, &count);
    if (ret < 0) {
        return ret;
    }

    if (s->has_locator != s->params.has_parent) {
        vhdx_check_error(check, "%s", s->has_locator ?
                         "There is a Parent Locator, but HasParent of File "
                         "Parameters is 0: sector bitmaps are left alone" :
                         "HasParent of File Parameters is 1, but there is no "
                         "Parent Locator");
    } else if (s->has_locator && !s->locator) {
        vhdx_check_error(check, "The Parent Locator is damaged: %s",
                         s->locator_error);
    }
    disk_id_check(bs, check);
    item = vhdx_metadata_find(items, count, &vhdx_item_file_parameters);
    if (!item) {
        /* It was there when the image was opened. */
        return -EINVAL;
    }
    offset = s->metadata.offset + item->offset + FILE_PARAMETERS_BITS;
    ret = vhdx_replay_read(bs, offset, sizeof(bits), bits);
    if (ret < 0) {
        return ret;
    }
    return field_check(bs, check, offset, ldl_le_p(bits), FILE_PARAMETERS_KNOWN,
                       "File Parameters");
}
