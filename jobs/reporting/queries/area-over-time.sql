-- How large is the longest track, frame by frame? (Name your own video and track in the WHERE.)
SELECT video_id, track_id, frame_idx, time_s, area_px, score
FROM masks
WHERE (plan_id, video_id, track_id) =
      (SELECT (plan_id, video_id, track_id) FROM tracks ORDER BY n_obs DESC, score DESC, video_id LIMIT 1)
ORDER BY frame_idx
