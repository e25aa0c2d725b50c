/*
 * VHDX: the parent locator, section 2.6.2.6
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_LOCATOR_H
#define BLOCK_VHDX_LOCATOR_H

#include "block/vhdx/format.h"

/*
 * The parent's DataWriteGuid is one of the linkages; the nil GUID, also of a
 * child that was not linked yet, fits none.  Paths are UTF-8 without control
 * characters, with the format's '\', NULL where there is none; one is there.
 */
typedef struct VHDXLocator {
    VHDXGuid linkage;               /* parent_linkage */
    VHDXGuid linkage2;              /* parent_linkage2, nil if there is none */
    char *relative_path;
    char *volume_path;
    char *absolute_win32_path;
} VHDXLocator;

/*
 * Decode the locator @buf of @bytes bytes, the whole item (section 2.6.2.6).
 * Unknown keys are ignored.  Returns a locator to be freed with
 * vhdx_locator_free(), NULL with @errp set where it is damaged; the message is
 * a sentence's end, and has what can be read all the same.
 */
VHDXLocator *vhdx_locator_decode(const uint8_t *buf, uint32_t bytes,
                                 Error **errp);

/*
 * Encode @loc as such an item, in the order of keys that Windows has; paths
 * that are NULL and a second linkage that is nil are left out.  Returns the
 * item, to be freed with g_free(), and its length in @bytes; NULL with @errp
 * set where a path is no UTF-8 or does not fit into the 65534 bytes that a
 * value may have.
 */
uint8_t *vhdx_locator_encode(const VHDXLocator *loc, uint32_t *bytes,
                             Error **errp);

/*
 * Whether an image can be told by the linkage of @loc, which is for the parent
 * @name.  Returns 0, or -EINVAL with @errp set where it is nil: no image fits
 * that.
 */
int vhdx_locator_check_linkage(const VHDXLocator *loc, const char *name,
                               Error **errp);

/* A copy of @loc with other linkages, to be freed. */
VHDXLocator *vhdx_locator_relink(const VHDXLocator *loc,
                                 const VHDXGuid *linkage,
                                 const VHDXGuid *linkage2);

/* Free @loc, which may be NULL. */
void vhdx_locator_free(VHDXLocator *loc);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(VHDXLocator, vhdx_locator_free)

#endif
