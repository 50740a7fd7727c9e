"""MaskTrack R-CNN: Mask R-CNN whose detections also say which object of the past they are.

Source: Yang, Fan, Xu, "Video instance segmentation", ICCV 2019, over the detector of `mask_rcnn/`. Section and equation
numbers are the paper's; where public codes differ there is a named switch. Beside the paper open

    config.py       every choice, and presets of published weights
    association.py  the four cues and who gets which track (Eq. 2 and 4)
    model.py        the tracking head (3.2), the memory (3.3), training by query and reference frame
"""
