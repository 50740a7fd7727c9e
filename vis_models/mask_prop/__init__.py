"""MaskProp: masks of each frame carried to the frames around it; clips that show the same things are one track.

Source: Bertasius, Torresani, "Classifying, segmenting, and tracking object instances in video with mask propagation",
CVPR 2020, over the detector of `mask_rcnn/`. Section and equation numbers are the paper's. A re-implementation without
a public reference; its HTC cascade and STSN are not built. Beside the paper open

    config.py       every choice
    propagation.py  masks of a frame in another frame (4.2)
    linking.py      which clips show the same object (4.3, Eq. 3 to 5)
    refinement.py   finer masks in a window around each object (4.4)
    objective.py    what propagation and refinement learn (Eq. 2)
    tracker.py      a frame of a film: a clip is complete, and gets its place; state.py is what waits until then
    model.py        the contract: encode, start, step, finish, loss
    rows.py         the rows of its tables

Ours, where the paper is silent (marked `Ours` where it is decided):

    propagation     offsets begin at zero, each dilation has its own, the three convolutions are summed; attention is a
                    sigmoid; a ReLU behind the overlay (`overlay`); one who is nobody in the softmax (`nobody`)
    clips           duplicates are dropped before masks are carried (`duplicate_iou`); the threshold of a link
                    (`link_iou`); a frame in which both clips show nothing does not count; a track goes on with one
                    object of a frame
    refinement      the square around a box (`margin`); what it adds begins at nothing; which detections learn
                    (`match_iou`, `lessons`), cross-entropy and overlap
    training        the mean over objects; an object that is gone costs what is still shown of it; true masks or those
                    of the head are carried (`true_masks`); both frames of a pair learn (`learn_reference`)
"""
