-- Which objects are in sight for the most frames?
SELECT video_id, track_id, category, n_obs AS frames, first_frame, last_frame, duration_s, gap_count, score
FROM tracks ORDER BY n_obs DESC, score DESC, video_id, track_id LIMIT 20
