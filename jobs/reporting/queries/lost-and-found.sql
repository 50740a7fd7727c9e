-- Which objects went out of sight and came back as themselves?
SELECT video_id, track_id, category, gap_count, last_frame - first_frame + 1 - n_obs AS frames_missed, score
FROM tracks WHERE gap_count > 0 ORDER BY frames_missed DESC, video_id, track_id LIMIT 20
