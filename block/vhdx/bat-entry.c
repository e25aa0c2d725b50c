/*
 * VHDX: what is right about a BAT entry
 *
 * Entries are judged whenever they are used, not at open, so that opening takes
 * the same time however large the table is.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/range.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/change.h"
#include "block/vhdx/lock.h"

const char *vhdx_bat_object_at(BDRVVHDXState *s, uint64_t offset,
                               uint64_t bytes)
{
    if (offset < VHDX_HEADER_SECTION_SIZE) {
        return "the header section";
    }
    if (s->header.log_length &&
        ranges_overlap(offset, bytes, s->header.log_offset,
                       s->header.log_length)) {
        return "the log";
    }
    if (ranges_overlap(offset, bytes, s->bat.offset, s->bat.length)) {
        return "the BAT";
    }
    return ranges_overlap(offset, bytes, s->metadata.offset,
                          s->metadata.length) ? "the metadata region" : NULL;
}

void vhdx_bat_note_objects(BDRVVHDXState *s)
{
    s->objects_end = MAX(VHDX_HEADER_SECTION_SIZE,
                         s->header.log_offset + s->header.log_length);
    s->objects_end = MAX(s->objects_end, s->bat.offset + s->bat.length);
    s->objects_end = MAX(s->objects_end,
                         s->metadata.offset + s->metadata.length);
}

/*
 * The file does not have all of the @bytes bytes at @offset that entry @index,
 * of @what, names.
 */
static void end_error(BDRVVHDXState *s, uint64_t index, const char *what,
                      uint64_t offset, uint64_t bytes, Error **errp)
{
    uint64_t size = vhdx_file_size(s);

    if (offset > INT64_MAX - bytes) {
        error_setg(errp, "BAT entry %" PRIu64 " (%s) names offset 0x%" PRIx64
                   ", beyond the end of the file at 0x%" PRIx64, index, what,
                   offset, size);
    } else {
        error_setg(errp, "BAT entry %" PRIu64 " (%s) names offset 0x%" PRIx64
                   ", beyond the end of the file at 0x%" PRIx64 ", which is %"
                   PRIu64 " byte%s too short", index, what, offset, size,
                   offset + bytes - size, vhdx_plural(offset + bytes - size));
    }
}

/*
 * Judge the place of @bytes bytes at @offset that entry @index, of @what,
 * names; @used are those that the file must have.
 */
static int place_check(BDRVVHDXState *s, uint64_t index, const char *what,
                       uint64_t offset, uint64_t bytes, uint64_t used,
                       Error **errp)
{
    const char *other;

    if (offset > vhdx_file_size(s) || used > vhdx_file_size(s) - offset) {
        end_error(s, index, what, offset, used, errp);
        return -EINVAL;
    }
    other = vhdx_bat_object_at(s, offset, bytes);
    if (other) {
        error_setg(errp, "BAT entry %" PRIu64 " (%s) names offset 0x%" PRIx64
                   ", inside %s", index, what, offset, other);
        return -EINVAL;
    }
    return 0;
}

/* Judge entry @index of raw value @entry, that of a sector bitmap block. */
static int bitmap_entry_check(BDRVVHDXState *s, uint64_t index, uint64_t entry,
                              Error **errp)
{
    VHDXBlockState state = vhdx_bat_state(entry);

    if (!s->params.has_parent) {
        if (vhdx_bat_may_be_block(s, entry)) {
            error_setg(errp, "BAT entry %" PRIu64 " names a sector bitmap "
                       "block in an image without parent: 0x%016" PRIx64,
                       index, entry);
            return -EINVAL;
        }
        return 0;
    }
    if (entry & VHDX_BAT_RESERVED_MASK) {
        error_setg(errp, "BAT entry %" PRIu64 " (sector bitmap) has reserved "
                   "bits set: 0x%016" PRIx64, index, entry);
        return -EINVAL;
    }
    if (state == VHDX_BLOCK_FULLY_PRESENT) {
        return place_check(s, index, "sector bitmap", vhdx_bat_offset(entry),
                           VHDX_BITMAP_SIZE, VHDX_BITMAP_SIZE, errp);
    }
    if (state != VHDX_BLOCK_NOT_PRESENT) {
        error_setg(errp, "BAT entry %" PRIu64 " (sector bitmap) has invalid "
                   "state %d", index, state);
        return -EINVAL;
    }
    return 0;
}

int vhdx_bat_entry_check(BDRVVHDXState *s, uint64_t index, uint64_t entry,
                         Error **errp)
{
    VHDXBlockState state = vhdx_bat_state(entry);
    uint64_t block;
    char what[32];

    if (vhdx_bat_index_is_bitmap(&s->geo, index, &block)) {
        return bitmap_entry_check(s, index, entry, errp);
    }
    if (entry & VHDX_BAT_RESERVED_MASK) {
        error_setg(errp, "BAT entry %" PRIu64 " has reserved bits set: 0x%016"
                   PRIx64, index, entry);
        return -EINVAL;
    }

    switch (state) {
    case VHDX_BLOCK_NOT_PRESENT:
    case VHDX_BLOCK_UNDEFINED:
    case VHDX_BLOCK_ZERO:
    case VHDX_BLOCK_UNMAPPED:
    case VHDX_BLOCK_UNMAPPED_DRAFT:
        return 0;
    case VHDX_BLOCK_FULLY_PRESENT:
        break;
    case VHDX_BLOCK_PARTIALLY_PRESENT:
        if (s->params.has_parent) {
            break;
        }
        /* fall through */
    default:
        error_setg(errp, "BAT entry %" PRIu64 " (block %" PRIu64 ") has "
                   "invalid state %d", index, block, state);
        return -EINVAL;
    }
    snprintf(what, sizeof(what), "block %" PRIu64, block);
    return place_check(s, index, what, vhdx_bat_offset(entry),
                       s->geo.block_size, vhdx_block_bytes(&s->geo, block),
                       errp);
}

/* Say what is wrong with an entry, for the first time in an open. */
static void GRAPH_RDLOCK entry_report(BlockDriverState *bs, Error *err)
{
    BDRVVHDXState *s = bs->opaque;

    if (s->reported) {
        error_free(err);
        return;
    }
    s->reported = true;
    error_prepend(&err, "VHDX image '%s': ", bs->filename);
    vhdx_change_corrupted_event(bs, error_get_pretty(err));
    error_report_err(err);
}

int vhdx_bat_entry_use(BlockDriverState *bs, uint64_t index, uint64_t raw,
                       uint64_t *entry)
{
    BDRVVHDXState *s = bs->opaque;
    Error *err = NULL;

    vhdx_assert_locked(s);
    if (vhdx_bat_entry_check(s, index, raw, &err) < 0) {
        entry_report(bs, err);
        return -EIO;
    }
    switch (vhdx_bat_state(raw)) {
    case VHDX_BLOCK_FULLY_PRESENT:
    case VHDX_BLOCK_PARTIALLY_PRESENT:
    case VHDX_BLOCK_UNDEFINED:
    case VHDX_BLOCK_UNMAPPED:
        *entry = raw;
        break;
    case VHDX_BLOCK_UNMAPPED_DRAFT:
        *entry = vhdx_bat_entry(VHDX_BLOCK_UNMAPPED, vhdx_bat_offset(raw));
        break;
    default:
        *entry = vhdx_bat_state(raw);
        break;
    }
    return 0;
}

int vhdx_bat_report_no_bitmap(BlockDriverState *bs, uint64_t chunk)
{
    BDRVVHDXState *s = bs->opaque;
    Error *err = NULL;

    vhdx_assert_locked(s);
    error_setg(&err, "BAT entry %" PRIu64 " names no sector bitmap, but a "
               "block of its chunk is PARTIALLY_PRESENT",
               vhdx_bat_bitmap_index(&s->geo, chunk));
    entry_report(bs, err);
    return -EIO;
}
