"""MaskProp: masks of each frame carried to the frames around it; clips that show the same things are one track.

Source: Bertasius, Torresani, "Classifying, segmenting, and tracking object instances in video with mask propagation",
CVPR 2020, over the detector of `mask_rcnn/`. Its authors published no code: where the paper is silent, what is done is
ours and says so. Section and equation numbers are the paper's. Beside the paper open

    config.py       every choice
    propagation.py  masks of a frame in another frame (4.2)
    linking.py      which clips show the same object (4.3, Eq. 3 to 5)
    refinement.py   finer masks in a window around each object (4.4)
    objective.py    what propagation and refinement learn (Eq. 2)
    tracker.py      a frame of a film: a clip is complete, and gets its place; state.py is what waits until then
    model.py        the contract: encode, start, step, finish, loss
    rows.py         the rows of its tables
"""
