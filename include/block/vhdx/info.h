/*
 * VHDX: what is told about an image
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_INFO_H
#define BLOCK_VHDX_INFO_H

#include "block/vhdx/state.h"

/* What others find out, the first in bytes; nothing is told of 0. */
typedef struct VHDXFigures {
    uint64_t missing;               /* the file is so much too short */
    uint64_t gains;                 /* compacted, it would be so much shorter */
    Qcow2BitmapInfoList *bitmaps;   /* is given away, or NULL */
} VHDXFigures;

/*
 * What the format has to say about the image, and @figures.  The caller frees
 * it.  No lock is held.
 */
ImageInfoSpecific *vhdx_info(BDRVVHDXState *s, const VHDXFigures *figures);

#endif
