/*
 * VHDX: what is told about an image
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_INFO_H
#define BLOCK_VHDX_INFO_H

#include "block/vhdx/state.h"

/* What others find out, the first two in bytes */
typedef struct VHDXFigures {
    uint64_t missing;               /* the file is so much too short */
    int64_t gains;                  /* by compacting it; -1: not known */
    Qcow2BitmapInfoList *bitmaps;   /* is given away, or NULL */
} VHDXFigures;

/*
 * What the format has to say about the image, and @figures.  The caller frees
 * it.  No lock is held.
 */
ImageInfoSpecific *vhdx_info(BDRVVHDXState *s, const VHDXFigures *figures);

#endif
