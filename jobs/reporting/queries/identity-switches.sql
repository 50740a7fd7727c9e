-- Where did the newest evaluation (or the one of --evaluation) see an object change its identity?
SELECT video_id, frame_idx, category, object_id, from_track, to_track, cost_frames
FROM switches WHERE evaluation_id = getvariable('newest')
ORDER BY cost_frames DESC, video_id, frame_idx
